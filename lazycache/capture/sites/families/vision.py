"""Vision transformers: images cut into patches, a position for each, and no token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lazycache.capture.sites.family import Family, Place, Projection
from lazycache.capture.sites.heads import HeadShape


def class_and_patches(config: Any, shape: tuple[int, ...]) -> int:
    """Return the positions of an image: the class token, then its patches, row by row.

    Example:
        >>> from types import SimpleNamespace
        >>> class_and_patches(SimpleNamespace(patch_size=16), (8, 3, 224, 224))
        197
    """
    return 1 + patches_only(config, shape)


def patches_only(config: Any, shape: tuple[int, ...]) -> int:
    """Return the positions of an image that has no class token: its patches, row by row.

    Example:
        >>> from types import SimpleNamespace
        >>> patches_only(SimpleNamespace(patch_size=(16, 8)), (8, 3, 32, 32))
        8
    """
    size = _vision(config).patch_size
    high, wide = (size, size) if isinstance(size, int) else size
    return int((shape[-2] // high) * (shape[-1] // wide))


def _vision(config: Any) -> Any:
    """Return the part of the configuration that is about images: CLIP has one about text too."""
    return getattr(config, "vision_config", config)


def _heads(config: Any) -> HeadShape:
    vision = _vision(config)
    heads = vision.num_attention_heads
    size = getattr(vision, "head_dim", None) or vision.hidden_size // heads
    return HeadShape(heads, heads, size)


def _attention(at: str, out: str) -> Mapping[str, Place]:
    """Return the sites of an attention block that returns its output and its pattern."""
    return {
        "attn_in": Place(f"{at}:in"),
        "queries": Place(f"{at}.q_proj:out", "heads"),
        "keys": Place(f"{at}.k_proj:out", "heads"),
        "values": Place(f"{at}.v_proj:out", "heads"),
        "pattern": Place(f"{at}:out[1]", "pattern"),
        "z": Place(f"{at}.{out}:in", "heads"),
        "attn_out": Place(f"{at}:out"),
    }


_VIT = "{base}layers.{L}"
_CLASSIFIER = "A classifier's scores are no `logits`: ask for `classifier:out`, a row per image."

VIT = Family(
    name="vit",
    model_types=frozenset({"vit"}),
    bases=("vit.", ""),
    layers="layers",
    sites={
        "embed": Place("{base}layers.0:in"),
        "resid_in": Place(f"{_VIT}:in"),
        **_attention(f"{_VIT}.attention", "o_proj"),
        "resid_mid": Place(f"{_VIT}.layernorm_after:in"),
        "mlp_in": Place(f"{_VIT}.mlp:in"),
        "mlp_act": Place(f"{_VIT}.mlp.fc2:in"),
        "mlp_out": Place(f"{_VIT}.mlp:out"),
        "resid_out": Place(f"{_VIT}:out"),
        "final_norm": Place("{base}layernorm:out"),
    },
    patches=class_and_patches,
    projection=Projection(f"{_VIT}.attention.o_proj"),
    head_shape=_heads,
    causal=False,
    notes=f"Position 0 is the class token. {_CLASSIFIER} In training a dropout follows `attn_out` "
    "and `mlp_out`.",
)

_VIT_4 = "{base}encoder.layer.{L}"

VIT_4 = replace(
    VIT,
    name="vit (transformers 4)",
    layers="encoder.layer",
    sites={
        "embed": Place("{base}encoder.layer.0:in"),
        "resid_in": Place(f"{_VIT_4}:in"),
        "attn_in": Place(f"{_VIT_4}.attention:in"),
        "queries": Place(f"{_VIT_4}.attention.attention.query:out", "heads"),
        "keys": Place(f"{_VIT_4}.attention.attention.key:out", "heads"),
        "values": Place(f"{_VIT_4}.attention.attention.value:out", "heads"),
        "pattern": Place(f"{_VIT_4}.attention.attention:out[1]", "pattern"),
        "z": Place(f"{_VIT_4}.attention.output.dense:in", "heads"),
        "attn_out": Place(f"{_VIT_4}.attention:out"),
        "resid_mid": Place(f"{_VIT_4}.layernorm_after:in"),
        "mlp_in": Place(f"{_VIT_4}.intermediate:in"),
        "mlp_act": Place(f"{_VIT_4}.output.dense:in"),
        # the module around it adds the stream too
        "mlp_out": Place(f"{_VIT_4}.output.dropout:out"),
        "resid_out": Place(f"{_VIT_4}:out"),
        "final_norm": Place("{base}layernorm:out"),
    },
    projection=Projection(f"{_VIT_4}.attention.output.dense"),
    notes=f"Position 0 is the class token. {_CLASSIFIER}",
)

_CLIP = "{base}encoder.layers.{L}"

CLIP_VISION = Family(
    name="clip vision",
    model_types=frozenset({"clip", "clip_vision_model"}),
    bases=("vision_model.", ""),
    layers="encoder.layers",
    sites={
        "embed": Place("{base}encoder.layers.0:in"),
        "resid_in": Place(f"{_CLIP}:in"),
        **_attention(f"{_CLIP}.self_attn", "out_proj"),
        "resid_mid": Place(f"{_CLIP}.layer_norm2:in"),
        "mlp_in": Place(f"{_CLIP}.mlp:in"),
        "mlp_act": Place(f"{_CLIP}.mlp.fc2:in"),
        "mlp_out": Place(f"{_CLIP}.mlp:out"),
        "resid_out": Place(f"{_CLIP}:out"),
    },
    patches=class_and_patches,
    projection=Projection(f"{_CLIP}.self_attn.out_proj"),
    head_shape=_heads,
    causal=False,
    notes="Position 0 is the class token. Of a whole CLIP these are the sites of the vision tower; "
    "the text tower is asked for by module path. There is no `final_norm`: the last norm "
    "(`post_layernorm`) reads the class token only.",
)

SIGLIP_VISION = replace(
    CLIP_VISION,
    name="siglip vision",
    model_types=frozenset({"siglip", "siglip_vision_model"}),
    sites={**CLIP_VISION.sites, "final_norm": Place("{base}post_layernorm:out")},
    patches=patches_only,
    notes="No class token. Of a whole SigLIP these are the sites of the vision tower; the text "
    "tower is asked for by module path.",
)

_DINO = "{base}encoder.layer.{L}"

DINOV2 = Family(
    name="dinov2",
    model_types=frozenset({"dinov2"}),
    bases=("dinov2.", ""),
    layers="encoder.layer",
    has="encoder.layer.0.attention.q_proj",
    when={"use_swiglu_ffn": False},
    sites={
        "embed": Place("{base}encoder.layer.0:in"),
        "resid_in": Place(f"{_DINO}:in"),
        **_attention(f"{_DINO}.attention", "o_proj"),
        # what is added to the stream is scaled per unit first
        "attn_out": Place(f"{_DINO}.layer_scale1:out"),
        "resid_mid": Place(f"{_DINO}.norm2:in"),
        "mlp_in": Place(f"{_DINO}.mlp:in"),
        "mlp_act": Place(f"{_DINO}.mlp.fc2:in"),
        "mlp_out": Place(f"{_DINO}.layer_scale2:out"),
        "resid_out": Place(f"{_DINO}:out"),
        "final_norm": Place("{base}layernorm:out"),
    },
    patches=class_and_patches,
    projection=Projection(f"{_DINO}.attention.o_proj"),
    head_shape=_heads,
    head_norm=f"{_DINO}.layer_scale1",
    causal=False,
    notes=f"Position 0 is the class token. {_CLASSIFIER} `attn_out` and `mlp_out` are after the "
    "layer scale. Needs transformers 5.",
)

DINOV2_GATED = replace(
    DINOV2,
    name="dinov2 gated",
    when={"use_swiglu_ffn": True},
    sites={**DINOV2.sites, "mlp_act": Place(f"{_DINO}.mlp.down_proj:in")},
)

FAMILIES = (VIT, VIT_4, CLIP_VISION, SIGLIP_VISION, DINOV2, DINOV2_GATED)
"""The families of this module, in the order in which they are tried."""
