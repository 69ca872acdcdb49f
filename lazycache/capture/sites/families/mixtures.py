"""Mixtures of experts with the attention of Llama: a router sends each token to a few experts."""

from __future__ import annotations

from dataclasses import replace

from lazycache.capture.sites.family import Family, Place, Projection

_LAYER = "{base}layers.{L}"

_NOTES = (
    "`router` is the logits of all experts, before softmax and choice. The neurons of the experts "
    "have no site: an expert reads only the tokens that are sent to it, and in transformers 5 all "
    "experts are one module. `mlp_out` is what the whole block adds."
)

MIXTRAL = Family(
    name="mixtral",
    model_types=frozenset({"mixtral"}),
    bases=("model.", ""),
    layers="layers",
    has="layers.0.mlp",
    sites={
        "embed": Place("{base}layers.0:in"),
        "resid_in": Place(f"{_LAYER}:in"),
        "attn_in": Place(f"{_LAYER}.self_attn:in"),
        "queries": Place(f"{_LAYER}.self_attn.q_proj:out", "heads"),
        "keys": Place(f"{_LAYER}.self_attn.k_proj:out", "kv_heads"),
        "values": Place(f"{_LAYER}.self_attn.v_proj:out", "kv_heads"),
        "pattern": Place(f"{_LAYER}.self_attn:out[1]", "pattern"),
        "z": Place(f"{_LAYER}.self_attn.o_proj:in", "heads"),
        "attn_out": Place(f"{_LAYER}.self_attn:out"),
        # in this shape the norm after attention is the one before the MLP: its input is the stream
        "resid_mid": Place(f"{_LAYER}.post_attention_layernorm:in"),
        "mlp_in": Place(f"{_LAYER}.mlp:in"),
        "router": Place(f"{_LAYER}.mlp.gate:out"),
        "mlp_out": Place(f"{_LAYER}.mlp:out"),
        "resid_out": Place(f"{_LAYER}:out"),
        "final_norm": Place("{base}norm:out"),
        "logits": Place("lm_head:out"),
    },
    projection=Projection(f"{_LAYER}.self_attn.o_proj"),
    notes=_NOTES,
)

MIXTRAL_4 = replace(
    MIXTRAL,
    name="mixtral (transformers 4)",
    has="layers.0.block_sparse_moe",
    sites={
        **MIXTRAL.sites,
        "mlp_in": Place(f"{_LAYER}.block_sparse_moe:in"),
        "router": Place(f"{_LAYER}.block_sparse_moe.gate:out"),
        "mlp_out": Place(f"{_LAYER}.block_sparse_moe:out"),
    },
)

QWEN_MOE = replace(
    MIXTRAL,
    name="qwen-moe",
    model_types=frozenset({"qwen2_moe", "qwen3_moe"}),
    # only layers without experts have this module: the table may be dense in some layers
    sites={**MIXTRAL.sites, "mlp_act": Place(f"{_LAYER}.mlp.down_proj:in")},
    notes=f"{_NOTES} With a shared expert (Qwen2-MoE) that includes it; its neurons are "
    "`model.layers.L.mlp.shared_expert.down_proj:in`. Layers without experts have `mlp_act` and no "
    "`router`. `queries` and `keys` are before the norms that Qwen3-MoE has on them.",
)

OLMOE = replace(
    MIXTRAL,
    name="olmoe",
    model_types=frozenset({"olmoe"}),
    notes=f"{_NOTES} `queries` and `keys` are before their norms, and all three before "
    "`config.clip_qkv`.",
)

FAMILIES = (MIXTRAL, MIXTRAL_4, QWEN_MOE, OLMOE)
"""The families of this module, in the order in which they are tried."""
