"""Encoder-decoder models, a family for each stack: T5 and its kin, BART."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lazycache.capture.sites.family import Family, Place, Projection
from lazycache.capture.sites.heads import HeadShape
from lazycache.types import DECODER_TOKENS


def _t5_heads(config: Any) -> HeadShape:
    return HeadShape(config.num_heads, config.num_heads, config.d_kv)


def _t5_sites(feed_forward: int, weights: int) -> Mapping[str, Place]:
    """Return the sites that both stacks have.

    `feed_forward` is where the MLP is among the sublayers of a block, `weights` where the pattern
    is in what attention returns.
    """
    block = "{base}block.{L}"
    attention = f"{block}.layer.0.SelfAttention"
    dense = f"{block}.layer.{feed_forward}.DenseReluDense"
    return {
        "embed": Place("{base}block.0:in"),
        "resid_in": Place(f"{block}:in"),
        "attn_in": Place(f"{attention}:in"),
        "queries": Place(f"{attention}.q:out", "heads"),
        "keys": Place(f"{attention}.k:out", "heads"),
        "values": Place(f"{attention}.v:out", "heads"),
        "pattern": Place(f"{attention}:out[{weights}]", "pattern"),
        "z": Place(f"{attention}.o:in", "heads"),
        # what is added to the stream leaves the dropout
        "attn_out": Place(f"{block}.layer.0.dropout:out"),
        # not what the sublayer before returns: the block clamps that in float16
        "resid_mid": Place(f"{block}.layer.1:in"),
        "mlp_in": Place(f"{dense}:in"),
        "mlp_act": Place(f"{dense}.wo:in"),
        "mlp_out": Place(f"{block}.layer.{feed_forward}.dropout:out"),
        "resid_out": Place(f"{block}:out"),
        "final_norm": Place("{base}final_layer_norm:out"),
    }


def _t5_cross_sites(weights: int) -> Mapping[str, Place]:
    sublayer = "{base}block.{L}.layer.1"
    return {
        "cross_attn_in": Place(f"{sublayer}.EncDecAttention:in"),
        "cross_attn_out": Place(f"{sublayer}.dropout:out"),
        "cross_pattern": Place(f"{sublayer}.EncDecAttention:out[{weights}]", "pattern"),
        "resid_cross": Place("{base}block.{L}.layer.2:in"),
    }


_T5_NOTES = (
    "In float16 a block clamps the stream where it overflows, and no sum holds there. The last "
    "projection of the MLP may be float32 in a model of lower precision: `mlp_act` and `mlp_out` "
    "are then float32."
)
_CROSS_NOTES = (
    "The keys, values and heads of cross attention have no site: ask for them by module path."
)

T5_ENCODER = Family(
    name="t5 encoder",
    model_types=frozenset({"t5", "mt5"}),
    bases=("encoder.", "transformer.encoder."),
    layers="block",
    # since attention is called through an interface its pattern is third in what it returns
    has="block.0.layer.0.SelfAttention.scaling",
    prefix="encoder.",
    sites=_t5_sites(feed_forward=1, weights=2),
    projection=Projection("{base}block.{L}.layer.0.SelfAttention.o"),
    head_shape=_t5_heads,
    causal=False,
    notes=f"{_T5_NOTES} `final_norm` is what the cross attention of the decoder reads.",
)

T5_DECODER = replace(
    T5_ENCODER,
    name="t5 decoder",
    bases=("decoder.", "transformer.decoder."),
    prefix="decoder.",
    table=DECODER_TOKENS,
    sites={
        **_t5_sites(feed_forward=2, weights=2),
        **_t5_cross_sites(weights=2),
        "logits": Place("lm_head:out"),
    },
    causal=True,
    notes=f"{_T5_NOTES} {_CROSS_NOTES} A model whose embeddings are tied scales `final_norm` by "
    "`d_model ** -0.5` before the head.",
)


def _umt5(family: Family, name: str) -> Family:
    """UMT5 is T5 but for its attention, which does not return position biases."""
    cross = _t5_cross_sites(weights=1) if "cross_pattern" in family.sites else {}
    pattern = {"pattern": Place("{base}block.{L}.layer.0.SelfAttention:out[1]", "pattern")}
    sites = {**family.sites, **pattern, **cross}
    return replace(family, name=name, model_types=frozenset({"umt5"}), sites=sites)


def _without_patterns(family: Family) -> Family:
    """Return the family for transformers 4, where only a flag made attention return patterns."""
    hidden = {"pattern", "cross_pattern"}
    return replace(
        family,
        name=f"{family.name} (transformers 4)",
        model_types=frozenset({"t5", "mt5", "umt5"}),
        has=None,
        sites={kind: place for kind, place in family.sites.items() if kind not in hidden},
        notes=f"Patterns need transformers 5 here. {family.notes}",
    )


def _bart_encoder_heads(config: Any) -> HeadShape:
    heads = config.encoder_attention_heads
    return HeadShape(heads, heads, config.d_model // heads)


def _bart_decoder_heads(config: Any) -> HeadShape:
    heads = config.decoder_attention_heads
    return HeadShape(heads, heads, config.d_model // heads)


_BART = "{base}layers.{L}"

BART_ENCODER = Family(
    name="bart encoder",
    model_types=frozenset({"bart"}),
    bases=("model.encoder.", "encoder."),
    layers="layers",
    when={"is_encoder_decoder": True},
    prefix="encoder.",
    sites={
        "embed": Place("{base}layers.0:in"),
        "resid_in": Place(f"{_BART}:in"),
        "attn_in": Place(f"{_BART}.self_attn:in"),
        "queries": Place(f"{_BART}.self_attn.q_proj:out", "heads"),
        "keys": Place(f"{_BART}.self_attn.k_proj:out", "heads"),
        "values": Place(f"{_BART}.self_attn.v_proj:out", "heads"),
        "pattern": Place(f"{_BART}.self_attn:out[1]", "pattern"),
        "z": Place(f"{_BART}.self_attn.out_proj:in", "heads"),
        "attn_out": Place(f"{_BART}.self_attn:out"),
        "resid_mid": Place(f"{_BART}.self_attn_layer_norm:out"),
        "mlp_in": Place(f"{_BART}.fc1:in"),
        "mlp_act": Place(f"{_BART}.fc2:in"),
        "mlp_out": Place(f"{_BART}.fc2:out"),
        "resid_out": Place(f"{_BART}:out"),
        # post-norm: the last norm of the stack is the one that ends its last layer
        "final_norm": Place("{base}layers.{last}.final_layer_norm:out"),
    },
    projection=Projection(f"{_BART}.self_attn.out_proj"),
    head_shape=_bart_encoder_heads,
    attn_norm=f"{_BART}.self_attn_layer_norm",
    mlp_norm=f"{_BART}.final_layer_norm",
    causal=False,
    notes="In training a dropout follows `attn_out` and `mlp_out`.",
)

BART_DECODER = replace(
    BART_ENCODER,
    name="bart decoder",
    bases=("model.decoder.", "decoder."),
    prefix="decoder.",
    table=DECODER_TOKENS,
    sites={
        **BART_ENCODER.sites,
        "cross_attn_in": Place(f"{_BART}.encoder_attn:in"),
        "cross_attn_out": Place(f"{_BART}.encoder_attn:out"),
        "cross_pattern": Place(f"{_BART}.encoder_attn:out[1]", "pattern"),
        "resid_cross": Place(f"{_BART}.encoder_attn_layer_norm:out"),
        "logits": Place("lm_head:out"),
    },
    head_shape=_bart_decoder_heads,
    cross_norm=f"{_BART}.encoder_attn_layer_norm",
    causal=True,
    notes=f"{BART_ENCODER.notes} {_CROSS_NOTES} `logits` are as the head returns them; the model "
    "adds `final_logits_bias` (zeros unless trained) after it.",
)

FAMILIES = (
    T5_ENCODER,
    T5_DECODER,
    _umt5(T5_ENCODER, "umt5 encoder"),
    _umt5(T5_DECODER, "umt5 decoder"),
    _without_patterns(T5_ENCODER),
    _without_patterns(T5_DECODER),
    BART_ENCODER,
    BART_DECODER,
)
"""The families of this module, in the order in which they are tried."""
