"""What is known of one model family: a row of the table of families, as data.

A template is a raw site name in which `{base}` is the prefix of the transformer proper (`model.` in
`LlamaForCausalLM`, nothing in `LlamaModel`), `{L}` the layer and `{last}` the last layer. A family
is found by `config.model_type` and `when`, not by the look of its modules: in Gemma 2 the module
`post_attention_layernorm` is another thing than in Llama, and a name that lies is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lazycache.capture.sites.heads import HeadShape
from lazycache.types import TOKENS


@dataclass(frozen=True, slots=True)
class Place:
    """Where one kind of site is."""

    at: str
    """Template of a raw site name: `{base}h.{L}.attn.c_attn:out`."""
    cut: str | None = None
    """How heads are cut out of it: a `kind` of `heads.Cut`; None takes the tensor as it is."""


@dataclass(frozen=True, slots=True)
class Projection:
    """The matrix that takes the heads of a layer to the residual stream."""

    module: str
    """Template of the path of the output projection."""
    transposed: bool = False
    """Whether its weight is [in, out], as GPT-2's Conv1D has it, not [out, in] as nn.Linear."""


@dataclass(frozen=True, slots=True)
class Family:
    """One stack of layers of one shape of model: where its sites are, what holds between them."""

    name: str
    """For people: `llama`; a stack of an encoder-decoder model has its own: `t5 decoder`."""
    model_types: frozenset[str]
    """Values of `config.model_type` that have this shape."""
    bases: tuple[str, ...]
    """Prefixes under which the transformer proper may be, tried in order."""
    layers: str
    """Path of the list of layers, below the base."""
    sites: Mapping[str, Place]
    """Kind of canonical site to its place. `head_out` is not here: see `projection`."""
    when: Mapping[str, Any] = field(default_factory=dict)
    """Values that attributes of the configuration must have beside the model type."""
    has: str | None = None
    """Path of an attribute below the base that the model must have: tells apart what versions of a
    library build under one model type. None: any."""
    prefix: str = ""
    """What its site names begin with: `encoder.` or `decoder.`, or nothing."""
    table: str = TOKENS
    """The table of its rows: `tokens`, or `decoder_tokens` for a decoder that has an encoder."""
    patches: Callable[[Any, tuple[int, ...]], int] | None = None
    """Of vision models: positions per image from configuration and shape of the pixels (class and
    other extra tokens counted); None: the model reads token ids."""
    projection: Projection | None = None
    """Output projection of the heads, from which `head_out` is computed; None: it has none."""
    head_shape: Callable[[Any], HeadShape | None] | None = None
    """Heads from the configuration, or None where it does not say; no function: the usual
    attributes (`heads.usual_shape`)."""
    head_norm: str | None = None
    """Sandwich norms: template of the norm between the sum of all heads (and the bias) and
    `attn_out`. None: `attn_out` is that sum."""
    parallel: bool = False
    """Attention and MLP read the same stream: `resid_out = resid_in + attn_out + mlp_out`, and
    there is no `resid_mid`."""
    attn_norm: str | None = None
    """Post-norm blocks: template of the norm in `resid_mid = norm(resid_in + attn_out)`.
    None: pre-norm, `resid_mid = resid_in + attn_out`."""
    cross_norm: str | None = None
    """Post-norm decoders: template of the norm in `resid_cross = norm(resid_mid + cross_attn_out)`.
    None: pre-norm, `resid_cross = resid_mid + cross_attn_out`."""
    mlp_norm: str | None = None
    """Post-norm blocks: template of the norm in `resid_out = norm(resid_mid + mlp_out)`.
    None: pre-norm, `resid_out = resid_mid + mlp_out`. With cross attention the MLP adds to
    `resid_cross`, not to `resid_mid`."""
    causal: bool = True
    """Whether a token attends only to those before it and itself."""
    notes: str = ""
    """What else a reader of the table of sites must know."""
