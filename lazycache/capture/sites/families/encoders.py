"""BERT and the encoders shaped like it: post-norm, each token sees the whole sequence."""

from __future__ import annotations

from dataclasses import replace

from lazycache.capture.sites.family import Family, Place, Projection

BERT = Family(
    name="bert",
    model_types=frozenset({"bert"}),
    bases=("bert.", ""),
    layers="encoder.layer",
    when={"is_decoder": False},
    sites={
        "embed": Place("{base}encoder.layer.0:in"),
        "resid_in": Place("{base}encoder.layer.{L}:in"),
        "attn_in": Place("{base}encoder.layer.{L}.attention:in"),
        "queries": Place("{base}encoder.layer.{L}.attention.self.query:out", "heads"),
        "keys": Place("{base}encoder.layer.{L}.attention.self.key:out", "heads"),
        "values": Place("{base}encoder.layer.{L}.attention.self.value:out", "heads"),
        "pattern": Place("{base}encoder.layer.{L}.attention.self:out[1]", "pattern"),
        "z": Place("{base}encoder.layer.{L}.attention.output.dense:in", "heads"),
        # what is added to the stream leaves the dropout, before the post-norm
        "attn_out": Place("{base}encoder.layer.{L}.attention.output.dropout:out"),
        "resid_mid": Place("{base}encoder.layer.{L}.attention:out"),
        "mlp_in": Place("{base}encoder.layer.{L}.intermediate:in"),
        "mlp_act": Place("{base}encoder.layer.{L}.output.dense:in"),
        "mlp_out": Place("{base}encoder.layer.{L}.output.dropout:out"),
        "resid_out": Place("{base}encoder.layer.{L}:out"),
        # post-norm: the last norm of the model is the one that ends the last layer
        "final_norm": Place("{base}encoder.layer.{last}.output.LayerNorm:out"),
        "logits": Place("cls.predictions:out"),
    },
    projection=Projection("{base}encoder.layer.{L}.attention.output.dense"),
    attn_norm="{base}encoder.layer.{L}.attention.output.LayerNorm",
    mlp_norm="{base}encoder.layer.{L}.output.LayerNorm",
    causal=False,
    notes="`logits` are those of the masked-token head. What classifies sequences or tokens, or "
    "answers questions, is asked for by module path.",
)

ROBERTA = replace(
    BERT,
    name="roberta",
    model_types=frozenset({"roberta", "xlm-roberta", "camembert"}),
    bases=("roberta.", ""),
    sites={**BERT.sites, "logits": Place("lm_head:out")},
)

_AS_DECODER = {"is_decoder": True, "add_cross_attention": False}
_DECODER_NOTES = (
    "The same modules under a causal mask. With cross attention the layers have other parts: such "
    "models are in no table."
)

BERT_DECODER = replace(
    BERT, name="bert decoder", when=_AS_DECODER, causal=True, notes=_DECODER_NOTES
)

ROBERTA_DECODER = replace(
    ROBERTA, name="roberta decoder", when=_AS_DECODER, causal=True, notes=_DECODER_NOTES
)

DISTILBERT = Family(
    name="distilbert",
    model_types=frozenset({"distilbert"}),
    bases=("distilbert.", ""),
    layers="transformer.layer",
    sites={
        "embed": Place("{base}transformer.layer.0:in"),
        "resid_in": Place("{base}transformer.layer.{L}:in"),
        "attn_in": Place("{base}transformer.layer.{L}.attention.q_lin:in"),
        "queries": Place("{base}transformer.layer.{L}.attention.q_lin:out", "heads"),
        "keys": Place("{base}transformer.layer.{L}.attention.k_lin:out", "heads"),
        "values": Place("{base}transformer.layer.{L}.attention.v_lin:out", "heads"),
        "pattern": Place("{base}transformer.layer.{L}.attention:out[1]", "pattern"),
        "z": Place("{base}transformer.layer.{L}.attention.out_lin:in", "heads"),
        "attn_out": Place("{base}transformer.layer.{L}.attention:out"),
        "resid_mid": Place("{base}transformer.layer.{L}.sa_layer_norm:out"),
        "mlp_in": Place("{base}transformer.layer.{L}.ffn:in"),
        "mlp_act": Place("{base}transformer.layer.{L}.ffn.lin2:in"),
        "mlp_out": Place("{base}transformer.layer.{L}.ffn:out"),
        # not what the layer returns: before transformers 5 the patterns may come first in it
        "resid_out": Place("{base}transformer.layer.{L}.output_layer_norm:out"),
        "final_norm": Place("{base}transformer.layer.{last}.output_layer_norm:out"),
        "logits": Place("vocab_projector:out"),
    },
    projection=Projection("{base}transformer.layer.{L}.attention.out_lin"),
    attn_norm="{base}transformer.layer.{L}.sa_layer_norm",
    mlp_norm="{base}transformer.layer.{L}.output_layer_norm",
    causal=False,
    notes=BERT.notes,
)

FAMILIES = (BERT, ROBERTA, BERT_DECODER, ROBERTA_DECODER, DISTILBERT)
"""The families of this module, in the order in which they are tried."""
