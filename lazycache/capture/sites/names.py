"""Names of activation points, canonical (`resid_out_3`) and raw (`model.norm:out`), and patterns.

Pure: no model is looked at. `architectures.py` says where a family keeps each canonical site and
`resolve.py` applies the patterns of this module to what a given model has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, cast

from lazycache.capture.sites.heads import Cut
from lazycache.catalog.name_patterns import matching
from lazycache.errors import CaptureError, SiteNotFoundError

LAYER_SITES = (
    "resid_in",
    "attn_in",
    "queries",
    "keys",
    "values",
    "pattern",
    "z",
    "head_out",
    "attn_out",
    "resid_mid",
    "cross_attn_in",
    "cross_attn_out",
    "cross_pattern",
    "resid_cross",
    "mlp_in",
    "router",
    "mlp_act",
    "mlp_out",
    "resid_out",
)
"""Canonical sites that a layer has, in the order in which a forward pass meets them."""

MODEL_SITES = ("embed", "final_norm", "logits")
"""Canonical sites that a model has once."""

CANONICAL = (*MODEL_SITES, *LAYER_SITES)
"""All kinds of canonical site."""

HEAD_SITES = ("queries", "keys", "values", "pattern", "z", "head_out")
"""Kinds of which single heads have names: `z_L1H3`."""

PREFIXES = ("encoder.", "decoder.")
"""What names begin with in a model that has both stacks; `logits` never has a prefix."""

GRADIENT = ":grad"
"""Ending of a canonical name: the gradient of the loss with respect to that tensor."""

_CANONICAL = re.compile(
    rf"(?P<prefix>{'|'.join(map(re.escape, PREFIXES))})?"
    rf"(?:(?P<model>{'|'.join(MODEL_SITES)})"
    rf"|(?P<kind>{'|'.join(LAYER_SITES)})_(?P<layer>0|[1-9][0-9]*)"
    rf"|(?P<headed>{'|'.join(HEAD_SITES)})_L(?P<of>0|[1-9][0-9]*)"
    r"(?:H(?P<head>0|[1-9][0-9]*))?)"
    rf"(?P<gradient>{GRADIENT})?"
)
_SIDE = re.compile(
    r"(?P<path>.*):(?P<side>grad_out|grad_in|out|in)"
    r"(?:\.(?P<field>[^\W\d]\w*))?(?:\[(?P<index>[0-9]+)\])?(?:@(?P<call>[0-9]+|\*))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class SiteName:
    """A canonical name taken apart."""

    kind: str
    """One of `CANONICAL`."""
    layer: int | None
    """0-based layer; None for a site that a model has once."""
    prefix: str = ""
    """One of `PREFIXES`, or nothing."""
    head: int | None = None
    """One head of it (0-based, counted as queries are); None is the whole site."""
    gradient: bool = False
    """Whether it is the gradient of the loss with respect to the tensor of that name."""

    def __str__(self) -> str:
        """Return the name as users write it."""
        layer = "" if self.layer is None else f"_{self.layer}"
        if self.head is not None:
            layer = f"_L{self.layer}H{self.head}"
        return f"{self.prefix}{self.kind}{layer}{GRADIENT if self.gradient else ''}"

    @property
    def named(self) -> SiteName:
        """The tensor that it is of: of a head the whole site, of a gradient what it is of."""
        return replace(self, head=None, gradient=False)

    @property
    def z(self) -> SiteName:
        """The site that `head_out` of this layer is computed from."""
        return replace(self, kind="z")


Side = Literal["out", "in", "grad_out", "grad_in"]
"""What a module returns or is called with, or the gradient of the loss with respect to it."""


@dataclass(frozen=True, slots=True)
class HookPoint:
    """Where a site is in a model: a module, one side of it, and which part of what passes there."""

    path: str
    """Module path as `named_modules()` says it; `""` is the model itself."""
    side: Side
    """What the module returns, or what it is called with, or the gradient of one of them."""
    index: int | None = None
    """Which element of a tuple (or field, counted) it is; None is the first tensor."""
    field: str | None = None
    """Which field of a mapping or output it is, or which argument by its name; before `index`."""
    call: int | Literal["*"] | None = None
    """Which call of several in one forward pass (0-based); `*` is each, as rows of the table of
    calls; None is the only one, or each if there are several."""
    cut: Cut | None = None
    """How heads are cut out of the tensor; None takes it as it is."""
    table: str | None = None
    """The table that its rows belong to, where the name says so (canonical sites); None: judged."""
    total: bool = False
    """Of a gradient: of the tensor wherever it is used, not only in this module."""

    def __str__(self) -> str:
        """Return the raw site name, `model.norm:out`."""
        field = "" if self.field is None else f".{self.field}"
        index = "" if self.index is None else f"[{self.index}]"
        call = "" if self.call is None else f"@{self.call}"
        cut = "" if self.cut is None else f" {self.cut}"
        return f"{self.path}:{self.side}{field}{index}{call}{cut}"


def parse_site(name: str) -> SiteName | None:
    """Take a canonical name apart; None if it is not one. `values_L1` is another `values_1`.

    Example:
        >>> parse_site("resid_out_3").layer, parse_site("z_L1H3").head
        (3, 3)
        >>> str(parse_site("encoder.values_L1:grad"))
        'encoder.values_1:grad'
        >>> parse_site("model.norm:out") is None
        True
    """
    match = _CANONICAL.fullmatch(name)
    if match is None:
        return None
    prefix, gradient = match["prefix"] or "", match["gradient"] is not None
    if match["model"]:
        if match["model"] == "logits" and prefix:
            return None
        return SiteName(match["model"], None, prefix, None, gradient)
    head = None if match["head"] is None else int(match["head"])
    layer = int(match["layer"] or match["of"])
    return SiteName(match["kind"] or match["headed"], layer, prefix, head, gradient)


def split_gradient(pattern: str) -> tuple[str, bool]:
    """Split `NAME:grad` into NAME and whether its gradient is meant.

    Example:
        >>> split_gradient("resid_out_*:grad"), split_gradient("model.norm:grad_out")
        (('resid_out_*', True), ('model.norm:grad_out', False))
    """
    return pattern.removesuffix(GRADIENT), pattern.endswith(GRADIENT)


def split_side(pattern: str) -> tuple[str, HookPoint | None]:
    """Split `PATH:side.field[i]@call` into PATH and the point; no side is `(pattern, None)`.

    Example:
        >>> path, point = split_side("model.layers.*.mlp:in")
        >>> path, point.side
        ('model.layers.*.mlp', 'in')
        >>> _, point = split_side("attn:out.attentions[1]@2")
        >>> point.field, point.index, point.call
        ('attentions', 1, 2)
        >>> split_side("resid_out_*")
        ('resid_out_*', None)
    """
    match = _SIDE.fullmatch(pattern)
    if match is None:
        return pattern, None
    index = None if match["index"] is None else int(match["index"])
    # the expression takes no other word
    side = cast("Side", match["side"])
    return match["path"], HookPoint(
        match["path"], side, index, field=match["field"], call=_call(match["call"])
    )


def _call(text: str | None) -> int | Literal["*"] | None:
    if text is None:
        return None
    return "*" if text == "*" else int(text)


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern means, in their order; an empty list if there are none.

    Patterns are those of `catalog.name_patterns`, the same for capture and for reading.

    Raises:
        CaptureError: the regular expression is not one.

    Example:
        >>> match_names("resid_out_[9-11]", [f"resid_out_{i}" for i in range(20)])
        ['resid_out_9', 'resid_out_10', 'resid_out_11']
    """
    try:
        return matching(pattern, names)
    except SiteNotFoundError as exc:
        raise CaptureError(str(exc)) from exc
