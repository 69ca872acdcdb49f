"""Where each model family keeps the canonical sites: a table of data.

A template is a raw site name in which `{base}` is the prefix of the transformer proper (`model.` in
`LlamaForCausalLM`, nothing in `LlamaModel`), `{L}` the layer and `{last}` the last layer. A family
is found by `config.model_type`, not by the look of its modules: in Gemma 2 the module
`post_attention_layernorm` is another thing than in Llama, and a name that lies is worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from lazycache.capture.sites import LAYER_SITES, HookPoint, SiteName, split_side


@dataclass(frozen=True, slots=True)
class Family:
    """One shape of model: where its sites are and what holds between them."""

    name: str
    """For people: `llama`."""
    model_types: frozenset[str]
    """Values of `config.model_type` that have this shape."""
    bases: tuple[str, ...]
    """Prefixes under which the transformer proper may be, tried in order."""
    layers: str
    """Path of the list of layers, below the base."""
    sites: Mapping[str, str]
    """Kind of canonical site to template."""
    attn_norm: str | None
    """Post-norm blocks: template of the norm in `resid_mid = norm(resid_in + attn_out)`.
    None: pre-norm, `resid_mid = resid_in + attn_out`."""
    mlp_norm: str | None
    """Post-norm blocks: template of the norm in `resid_out = norm(resid_mid + mlp_out)`.
    None: pre-norm, `resid_out = resid_mid + mlp_out`."""


@dataclass(frozen=True, slots=True)
class Located:
    """A family found in a given model."""

    family: Family
    """Its table."""
    base: str
    """The prefix that holds here, with its dot: `model.`, or nothing."""
    layers: int
    """How many layers there are."""

    def path(self, template: str, *, layer: int | None) -> str:
        """Fill a template of the family."""
        return template.format(base=self.base, L=layer, last=self.layers - 1)

    def point(self, site: SiteName) -> HookPoint:
        """Return where a canonical site of this family is; `site.kind` must be in its table."""
        _, point = split_side(self.path(self.family.sites[site.kind], layer=site.layer))
        assert point is not None, "every template of the table names a side"
        return point

    def sites(self) -> list[SiteName]:
        """All canonical sites of the table, a layer at a time."""
        per_layer = [kind for kind in LAYER_SITES if kind in self.family.sites]
        layers = [SiteName(kind, layer) for layer in range(self.layers) for kind in per_layer]
        first = [SiteName("embed", None)] if "embed" in self.family.sites else []
        end = [SiteName(k, None) for k in ("final_norm", "logits") if k in self.family.sites]
        return first + layers + end


GPT2 = Family(
    name="gpt2",
    model_types=frozenset({"gpt2"}),
    bases=("transformer.", ""),
    layers="h",
    sites={
        "embed": "{base}h.0:in",
        "resid_in": "{base}h.{L}:in",
        "attn_in": "{base}h.{L}.attn:in",
        "attn_out": "{base}h.{L}.attn:out",
        # the input of the second norm is the residual stream; its output is not
        "resid_mid": "{base}h.{L}.ln_2:in",
        "mlp_in": "{base}h.{L}.mlp:in",
        "mlp_act": "{base}h.{L}.mlp.c_proj:in",
        "mlp_out": "{base}h.{L}.mlp:out",
        "resid_out": "{base}h.{L}:out",
        "final_norm": "{base}ln_f:out",
        "logits": "lm_head:out",
    },
    attn_norm=None,
    mlp_norm=None,
)

LLAMA = Family(
    name="llama",
    model_types=frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma"}),
    bases=("model.", ""),
    layers="layers",
    sites={
        "embed": "{base}layers.0:in",
        "resid_in": "{base}layers.{L}:in",
        "attn_in": "{base}layers.{L}.self_attn:in",
        "attn_out": "{base}layers.{L}.self_attn:out",
        # in this shape the norm after attention is the one before the MLP: its input is the stream
        "resid_mid": "{base}layers.{L}.post_attention_layernorm:in",
        "mlp_in": "{base}layers.{L}.mlp:in",
        "mlp_act": "{base}layers.{L}.mlp.down_proj:in",
        "mlp_out": "{base}layers.{L}.mlp:out",
        "resid_out": "{base}layers.{L}:out",
        "final_norm": "{base}norm:out",
        "logits": "lm_head:out",
    },
    attn_norm=None,
    mlp_norm=None,
)

BERT = Family(
    name="bert",
    model_types=frozenset({"bert"}),
    bases=("bert.", ""),
    layers="encoder.layer",
    sites={
        "embed": "{base}encoder.layer.0:in",
        "resid_in": "{base}encoder.layer.{L}:in",
        "attn_in": "{base}encoder.layer.{L}.attention:in",
        # what is added to the stream leaves the dropout, before the post-norm
        "attn_out": "{base}encoder.layer.{L}.attention.output.dropout:out",
        "resid_mid": "{base}encoder.layer.{L}.attention:out",
        "mlp_in": "{base}encoder.layer.{L}.intermediate:in",
        "mlp_act": "{base}encoder.layer.{L}.output.dense:in",
        "mlp_out": "{base}encoder.layer.{L}.output.dropout:out",
        "resid_out": "{base}encoder.layer.{L}:out",
        # post-norm: the last norm of the model is the one that ends the last layer
        "final_norm": "{base}encoder.layer.{last}.output.LayerNorm:out",
        "logits": "cls.predictions:out",
    },
    attn_norm="{base}encoder.layer.{L}.attention.output.LayerNorm",
    mlp_norm="{base}encoder.layer.{L}.output.LayerNorm",
)

FAMILIES = (GPT2, LLAMA, BERT)
"""All families, in the order in which they are tried."""


def locate(model: nn.Module) -> Located | None:
    """Find the family of a model and where in it the transformer is; None if it is in no table.

    Example:
        >>> locate(nn.Linear(2, 2)) is None
        True
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    for family in FAMILIES:
        if model_type in family.model_types:
            for base in family.bases:
                layers = _submodule(model, base + family.layers)
                if isinstance(layers, nn.ModuleList) and len(layers):
                    return Located(family, base, len(layers))
    return None


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None
