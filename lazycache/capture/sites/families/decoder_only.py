"""Decoders without an encoder, dense: GPT-2, Llama and those after them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lazycache.capture.sites.family import Family, Place, Projection
from lazycache.capture.sites.heads import HeadShape, usual_shape

_SINCE_5 = "all_tied_weights_keys"
"""An attribute that every model of transformers 5 has, and none of transformers 4."""

_DROPOUT = "In training a dropout follows `attn_out` and `mlp_out`."


def _transformers_4(family: Family, sites: Mapping[str, Place] | None = None) -> Family:
    """Return the family for transformers 4, where attention returns its pattern elsewhere.

    And only if a flag asks for it; without it something else is in its place.
    """
    kept = {kind: place for kind, place in family.sites.items() if kind != "pattern"}
    return replace(
        family,
        name=f"{family.name} (transformers 4)",
        has=None,
        sites={**kept, **(sites or {})},
        notes=f"Patterns need transformers 5 here. {family.notes}".strip(),
    )


_GPT2 = "{base}h.{L}"

GPT2 = Family(
    name="gpt2",
    model_types=frozenset({"gpt2"}),
    bases=("transformer.", ""),
    layers="h",
    when={"add_cross_attention": False},
    has=_SINCE_5,
    sites={
        "embed": Place("{base}h.0:in"),
        "resid_in": Place(f"{_GPT2}:in"),
        "attn_in": Place(f"{_GPT2}.attn:in"),
        "queries": Place(f"{_GPT2}.attn.c_attn:out", "concat.q"),
        "keys": Place(f"{_GPT2}.attn.c_attn:out", "concat.k"),
        "values": Place(f"{_GPT2}.attn.c_attn:out", "concat.v"),
        "pattern": Place(f"{_GPT2}.attn:out[1]", "pattern"),
        "z": Place(f"{_GPT2}.attn.c_proj:in", "heads"),
        "attn_out": Place(f"{_GPT2}.attn:out"),
        # the input of the second norm is the residual stream; its output is not
        "resid_mid": Place(f"{_GPT2}.ln_2:in"),
        "mlp_in": Place(f"{_GPT2}.mlp:in"),
        "mlp_act": Place(f"{_GPT2}.mlp.c_proj:in"),
        "mlp_out": Place(f"{_GPT2}.mlp:out"),
        "resid_out": Place(f"{_GPT2}:out"),
        "final_norm": Place("{base}ln_f:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_GPT2}.attn.c_proj", transposed=True),
)

GPTJ = replace(
    GPT2,
    name="gptj",
    model_types=frozenset({"gptj"}),
    when={},
    sites={
        "embed": Place("{base}h.0:in"),
        "resid_in": Place(f"{_GPT2}:in"),
        "attn_in": Place(f"{_GPT2}.attn:in"),
        "queries": Place(f"{_GPT2}.attn.q_proj:out", "heads"),
        "keys": Place(f"{_GPT2}.attn.k_proj:out", "heads"),
        "values": Place(f"{_GPT2}.attn.v_proj:out", "heads"),
        "pattern": Place(f"{_GPT2}.attn:out[1]", "pattern"),
        "z": Place(f"{_GPT2}.attn.out_proj:in", "heads"),
        "attn_out": Place(f"{_GPT2}.attn:out"),
        "mlp_in": Place(f"{_GPT2}.mlp:in"),
        "mlp_act": Place(f"{_GPT2}.mlp.fc_out:in"),
        "mlp_out": Place(f"{_GPT2}.mlp:out"),
        "resid_out": Place(f"{_GPT2}:out"),
        "final_norm": Place("{base}ln_f:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_GPT2}.attn.out_proj"),
    parallel=True,
    notes="One norm feeds both: `mlp_in` equals `attn_in`.",
)

_LLAMA = "{base}layers.{L}"

LLAMA = Family(
    name="llama",
    model_types=frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3"}),
    bases=("model.", ""),
    layers="layers",
    sites={
        "embed": Place("{base}layers.0:in"),
        "resid_in": Place(f"{_LLAMA}:in"),
        "attn_in": Place(f"{_LLAMA}.self_attn:in"),
        "queries": Place(f"{_LLAMA}.self_attn.q_proj:out", "heads"),
        "keys": Place(f"{_LLAMA}.self_attn.k_proj:out", "kv_heads"),
        "values": Place(f"{_LLAMA}.self_attn.v_proj:out", "kv_heads"),
        "pattern": Place(f"{_LLAMA}.self_attn:out[1]", "pattern"),
        "z": Place(f"{_LLAMA}.self_attn.o_proj:in", "heads"),
        "attn_out": Place(f"{_LLAMA}.self_attn:out"),
        # in this shape the norm after attention is the one before the MLP: its input is the stream
        "resid_mid": Place(f"{_LLAMA}.post_attention_layernorm:in"),
        "mlp_in": Place(f"{_LLAMA}.mlp:in"),
        "mlp_act": Place(f"{_LLAMA}.mlp.down_proj:in"),
        "mlp_out": Place(f"{_LLAMA}.mlp:out"),
        "resid_out": Place(f"{_LLAMA}:out"),
        "final_norm": Place("{base}norm:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_LLAMA}.self_attn.o_proj"),
    notes="`queries` and `keys` are before the norms that Qwen3 has on them.",
)

GEMMA2 = replace(
    LLAMA,
    name="gemma2",
    model_types=frozenset({"gemma2", "gemma3_text", "gemma3"}),
    bases=("model.language_model.", "language_model.", "model.", ""),
    sites={
        **LLAMA.sites,
        # here the norm after attention is between attention and the stream
        "attn_out": Place(f"{_LLAMA}.post_attention_layernorm:out"),
        "resid_mid": Place(f"{_LLAMA}.pre_feedforward_layernorm:in"),
        "mlp_out": Place(f"{_LLAMA}.post_feedforward_layernorm:out"),
    },
    head_norm=f"{_LLAMA}.post_attention_layernorm",
    notes="What attention and MLP return is normalised before it is added: `attn_out` and "
    "`mlp_out` are after that norm. `queries` and `keys` are before the norms that Gemma 3 has on "
    "them. `logits` are as the head returns them, before the soft cap of Gemma 2. Of a Gemma 3 "
    "that sees images these are the sites of the language model; tokens of an image attend to one "
    "another in both directions.",
)

OLMO = replace(
    LLAMA,
    name="olmo",
    model_types=frozenset({"olmo"}),
    notes="`queries`, `keys` and `values` are before `config.clip_qkv`; where that clips, "
    "`pattern` and `values` do not make `z`.",
)

OLMO2 = replace(
    LLAMA,
    name="olmo2",
    model_types=frozenset({"olmo2", "olmo3"}),
    sites={
        **LLAMA.sites,
        "attn_out": Place(f"{_LLAMA}.post_attention_layernorm:out"),
        # nothing is between the stream and the MLP
        "resid_mid": Place(f"{_LLAMA}.mlp:in"),
        "mlp_out": Place(f"{_LLAMA}.post_feedforward_layernorm:out"),
    },
    head_norm=f"{_LLAMA}.post_attention_layernorm",
    notes="Nothing is normalised before attention and MLP: `attn_in` equals `resid_in`, `mlp_in` "
    "equals `resid_mid`. What they return is, before it is added: `attn_out` and `mlp_out` are "
    "after that norm. `queries` and `keys` are before their norms.",
)

PHI3 = replace(
    LLAMA,
    name="phi3",
    model_types=frozenset({"phi3"}),
    sites={
        **LLAMA.sites,
        "queries": Place(f"{_LLAMA}.self_attn.qkv_proj:out", "concat.q"),
        "keys": Place(f"{_LLAMA}.self_attn.qkv_proj:out", "concat.k"),
        "values": Place(f"{_LLAMA}.self_attn.qkv_proj:out", "concat.v"),
        # what is added to the stream leaves the dropout
        "attn_out": Place(f"{_LLAMA}.resid_attn_dropout:out"),
        "mlp_out": Place(f"{_LLAMA}.resid_mlp_dropout:out"),
    },
    notes="",
)

PHI = replace(
    LLAMA,
    name="phi",
    model_types=frozenset({"phi"}),
    sites={
        **{kind: place for kind, place in LLAMA.sites.items() if kind != "resid_mid"},
        "z": Place(f"{_LLAMA}.self_attn.dense:in", "heads"),
        "mlp_act": Place(f"{_LLAMA}.mlp.fc2:in"),
        "final_norm": Place("{base}final_layernorm:out"),
    },
    projection=Projection(f"{_LLAMA}.self_attn.dense"),
    parallel=True,
    notes=f"One norm feeds both: `mlp_in` equals `attn_in`. `queries` and `keys` are before the "
    f"norms of `config.qk_layernorm`. {_DROPOUT}",
)

_NEOX = "{base}layers.{L}"

NEOX = Family(
    name="gpt-neox",
    model_types=frozenset({"gpt_neox"}),
    bases=("gpt_neox.", ""),
    layers="layers",
    when={"use_parallel_residual": True},
    has=_SINCE_5,
    sites={
        "embed": Place("{base}layers.0:in"),
        "resid_in": Place(f"{_NEOX}:in"),
        "attn_in": Place(f"{_NEOX}.attention:in"),
        "queries": Place(f"{_NEOX}.attention.query_key_value:out", "per_head.q"),
        "keys": Place(f"{_NEOX}.attention.query_key_value:out", "per_head.k"),
        "values": Place(f"{_NEOX}.attention.query_key_value:out", "per_head.v"),
        "pattern": Place(f"{_NEOX}.attention:out[1]", "pattern"),
        "z": Place(f"{_NEOX}.attention.dense:in", "heads"),
        # what is added to the stream leaves the dropout
        "attn_out": Place(f"{_NEOX}.post_attention_dropout:out"),
        "mlp_in": Place(f"{_NEOX}.mlp:in"),
        "mlp_act": Place(f"{_NEOX}.mlp.dense_4h_to_h:in"),
        "mlp_out": Place(f"{_NEOX}.post_mlp_dropout:out"),
        "resid_out": Place(f"{_NEOX}:out"),
        "final_norm": Place("{base}final_layer_norm:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_NEOX}.attention.dense"),
    parallel=True,
    notes="Pythia is of this family. Attention and MLP have a norm each, of the same stream.",
)

NEOX_SEQUENTIAL = replace(
    NEOX,
    name="gpt-neox sequential",
    when={"use_parallel_residual": False},
    sites={**NEOX.sites, "resid_mid": Place(f"{_NEOX}.post_attention_layernorm:in")},
    parallel=False,
    notes="",
)

_OPT = "{base}layers.{L}"

OPT = Family(
    name="opt",
    model_types=frozenset({"opt"}),
    bases=("model.decoder.", "decoder.", ""),
    layers="layers",
    when={"do_layer_norm_before": True},
    has=_SINCE_5,
    sites={
        "embed": Place("{base}layers.0:in"),
        "resid_in": Place(f"{_OPT}:in"),
        "attn_in": Place(f"{_OPT}.self_attn:in"),
        "queries": Place(f"{_OPT}.self_attn.q_proj:out", "heads"),
        "keys": Place(f"{_OPT}.self_attn.k_proj:out", "heads"),
        "values": Place(f"{_OPT}.self_attn.v_proj:out", "heads"),
        "pattern": Place(f"{_OPT}.self_attn:out[1]", "pattern"),
        "z": Place(f"{_OPT}.self_attn.out_proj:in", "heads"),
        "attn_out": Place(f"{_OPT}.self_attn:out"),
        "resid_mid": Place(f"{_OPT}.final_layer_norm:in"),
        "mlp_in": Place(f"{_OPT}.fc1:in"),
        "mlp_act": Place(f"{_OPT}.fc2:in"),
        "mlp_out": Place(f"{_OPT}.fc2:out"),
        "resid_out": Place(f"{_OPT}:out"),
        "final_norm": Place("{base}final_layer_norm:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_OPT}.self_attn.out_proj"),
    notes=f"`queries` are before they are scaled. {_DROPOUT}",
)

OPT_POST_NORM = replace(
    OPT,
    name="opt post-norm",
    when={"do_layer_norm_before": False},
    sites={
        **OPT.sites,
        "resid_mid": Place(f"{_OPT}.self_attn_layer_norm:out"),
        # post-norm: the last norm of the model is the one that ends the last layer
        "final_norm": Place("{base}layers.{last}.final_layer_norm:out"),
    },
    attn_norm=f"{_OPT}.self_attn_layer_norm",
    mlp_norm=f"{_OPT}.final_layer_norm",
    notes=f"OPT-350M. `queries` are before they are scaled. {_DROPOUT} Where "
    "`config.word_embed_proj_dim` is not the width of the stream, `project_out` is between "
    "`final_norm` and the head.",
)

_FALCON = "{base}h.{L}"


def _falcon_heads(config: Any) -> HeadShape | None:
    """Heads of a Falcon: its configuration has kv heads that `multi_query` overrules."""
    usual = usual_shape(config)
    if usual is None or config.new_decoder_architecture:
        return usual
    return replace(usual, kv_heads=1 if config.multi_query else usual.heads)


def _falcon(name: str, *, parallel: bool, cut: str, when: Mapping[str, bool], notes: str) -> Family:
    fused = f"{_FALCON}.self_attention.query_key_value:out"
    middle = {} if parallel else {"resid_mid": Place(f"{_FALCON}.post_attention_layernorm:in")}
    return Family(
        name=name,
        model_types=frozenset({"falcon"}),
        bases=("transformer.", ""),
        layers="h",
        when=when,
        has=_SINCE_5,
        sites={
            "embed": Place("{base}h.0:in"),
            "resid_in": Place(f"{_FALCON}:in"),
            "attn_in": Place(f"{_FALCON}.self_attention:in"),
            "queries": Place(fused, f"{cut}.q"),
            "keys": Place(fused, f"{cut}.k"),
            "values": Place(fused, f"{cut}.v"),
            "pattern": Place(f"{_FALCON}.self_attention:out[1]", "pattern"),
            "z": Place(f"{_FALCON}.self_attention.dense:in", "heads"),
            "attn_out": Place(f"{_FALCON}.self_attention:out"),
            **middle,
            "mlp_in": Place(f"{_FALCON}.mlp:in"),
            "mlp_act": Place(f"{_FALCON}.mlp.dense_4h_to_h:in"),
            "mlp_out": Place(f"{_FALCON}.mlp:out"),
            "resid_out": Place(f"{_FALCON}:out"),
            "final_norm": Place("{base}ln_f:out"),
            "logits": Place("lm_head:out"),
        },
        projection=Projection(f"{_FALCON}.self_attention.dense"),
        head_shape=_falcon_heads,
        parallel=parallel,
        notes=f"{notes} {_DROPOUT}".strip(),
    )


FALCON = (
    _falcon(
        "falcon new",
        parallel=True,
        cut="grouped",
        when={"new_decoder_architecture": True},
        notes="Falcon-40B and 180B: attention and MLP have a norm each, of the same stream.",
    ),
    _falcon(
        "falcon multi-query",
        parallel=True,
        cut="grouped",
        when={"new_decoder_architecture": False, "parallel_attn": True, "multi_query": True},
        notes="Falcon-7B: one norm feeds both, `mlp_in` equals `attn_in`.",
    ),
    _falcon(
        "falcon parallel",
        parallel=True,
        cut="per_head",
        when={"new_decoder_architecture": False, "parallel_attn": True, "multi_query": False},
        notes="One norm feeds both: `mlp_in` equals `attn_in`.",
    ),
    _falcon(
        "falcon sequential",
        parallel=False,
        cut="per_head",
        when={"new_decoder_architecture": False, "parallel_attn": False, "multi_query": False},
        notes="Falcon-RW.",
    ),
    _falcon(
        "falcon sequential multi-query",
        parallel=False,
        cut="grouped",
        when={"new_decoder_architecture": False, "parallel_attn": False, "multi_query": True},
        notes="",
    ),
)

_BLOOM = "{base}h.{L}"

BLOOM = Family(
    name="bloom",
    model_types=frozenset({"bloom"}),
    bases=("transformer.", ""),
    layers="h",
    # else the stream goes on from the norm, or no module multiplies by the projection
    when={"apply_residual_connection_post_layernorm": False, "slow_but_exact": False},
    has=_SINCE_5,
    sites={
        "embed": Place("{base}h.0:in"),
        "resid_in": Place(f"{_BLOOM}:in"),
        "attn_in": Place(f"{_BLOOM}.self_attention:in"),
        "queries": Place(f"{_BLOOM}.self_attention.query_key_value:out", "per_head.q"),
        "keys": Place(f"{_BLOOM}.self_attention.query_key_value:out", "per_head.k"),
        "values": Place(f"{_BLOOM}.self_attention.query_key_value:out", "per_head.v"),
        "pattern": Place(f"{_BLOOM}.self_attention:out[1]", "pattern"),
        "z": Place(f"{_BLOOM}.self_attention.dense:in", "heads"),
        # the modules around the projections add the stream too
        "attn_out": Place(f"{_BLOOM}.self_attention.dense:out"),
        "resid_mid": Place(f"{_BLOOM}.post_attention_layernorm:in"),
        "mlp_in": Place(f"{_BLOOM}.mlp:in"),
        "mlp_act": Place(f"{_BLOOM}.mlp.dense_4h_to_h:in"),
        "mlp_out": Place(f"{_BLOOM}.mlp.dense_4h_to_h:out"),
        "resid_out": Place(f"{_BLOOM}:out"),
        "final_norm": Place("{base}ln_f:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_BLOOM}.self_attention.dense"),
    notes=_DROPOUT,
)

_MPT = "{base}blocks.{L}"

MPT = Family(
    name="mpt",
    model_types=frozenset({"mpt"}),
    bases=("transformer.", ""),
    layers="blocks",
    sites={
        "embed": Place("{base}blocks.0:in"),
        "resid_in": Place(f"{_MPT}:in"),
        "attn_in": Place(f"{_MPT}.attn:in"),
        "queries": Place(f"{_MPT}.attn.Wqkv:out", "concat.q"),
        "keys": Place(f"{_MPT}.attn.Wqkv:out", "concat.k"),
        "values": Place(f"{_MPT}.attn.Wqkv:out", "concat.v"),
        "pattern": Place(f"{_MPT}.attn:out[1]", "pattern"),
        "z": Place(f"{_MPT}.attn.out_proj:in", "heads"),
        # what is added to the stream leaves the dropout
        "attn_out": Place(f"{_MPT}.resid_attn_dropout:out"),
        "resid_mid": Place(f"{_MPT}.norm_2:in"),
        "mlp_in": Place(f"{_MPT}.ffn:in"),
        "mlp_act": Place(f"{_MPT}.ffn.down_proj:in"),
        # the module around the projection adds the stream too
        "mlp_out": Place(f"{_MPT}.ffn.down_proj:out"),
        "resid_out": Place(f"{_MPT}:out"),
        "final_norm": Place("{base}norm_f:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_MPT}.attn.out_proj"),
    notes="`queries`, `keys` and `values` are before `attn_config.clip_qkv`; where that clips, "
    "`pattern` and `values` do not make `z`. In training a dropout follows `mlp_out`.",
)

FAMILIES: tuple[Family, ...] = (
    GPT2,
    GPTJ,
    LLAMA,
    GEMMA2,
    OLMO,
    OLMO2,
    PHI3,
    PHI,
    NEOX,
    NEOX_SEQUENTIAL,
    OPT,
    OPT_POST_NORM,
    *FALCON,
    BLOOM,
    MPT,
    _transformers_4(GPT2),
    _transformers_4(GPTJ),
    _transformers_4(NEOX, {"logits": Place("embed_out:out")}),
    _transformers_4(NEOX_SEQUENTIAL, {"logits": Place("embed_out:out")}),
    _transformers_4(OPT),
    _transformers_4(OPT_POST_NORM),
    *(_transformers_4(family) for family in FALCON),
    _transformers_4(BLOOM),
)
"""The families of this module, in the order in which they are tried."""
