"""Names of activation points, canonical (`resid_out_3`) and raw (`model.norm:out`), and patterns.

Pure: no torch, no model. `architectures.py` says where a family keeps each canonical site and
`resolve.py` applies the patterns of this module to what a given model has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from lazycache.capture.heads import Cut
from lazycache.errors import CaptureError

LAYER_SITES = (
    "resid_in",
    "attn_in",
    "attn_out",
    "resid_mid",
    "mlp_in",
    "mlp_act",
    "mlp_out",
    "resid_out",
)
"""Canonical sites that every layer has, in the order in which a forward pass meets them."""

MODEL_SITES = ("embed", "final_norm", "logits")
"""Canonical sites that a model has once."""

CANONICAL = (*MODEL_SITES, *LAYER_SITES)
"""All kinds of canonical site."""

_CANONICAL = re.compile(
    rf"(?P<model>{'|'.join(MODEL_SITES)})|(?P<kind>{'|'.join(LAYER_SITES)})_(?P<layer>0|[1-9]\d*)"
)
_SIDE = re.compile(r"(?P<path>.*):(?P<side>out|in)(?:\[(?P<index>\d+)\])?", re.DOTALL)
_GLOB_TOKEN = re.compile(
    r"(?P<star>\*)|(?P<any>\?)"
    r"|\[(?P<first>\d+)-(?P<last>\d+)\]"
    r"|\[(?P<negate>!?)(?P<chars>[^\[\]]+)\]"
    r"|\{(?P<choices>[^{}]*)\}"
)


@dataclass(frozen=True, slots=True)
class SiteName:
    """A canonical name taken apart."""

    kind: str
    """One of `CANONICAL`."""
    layer: int | None
    """0-based layer; None for a site that a model has once."""

    def __str__(self) -> str:
        """Return the name as users write it."""
        return self.kind if self.layer is None else f"{self.kind}_{self.layer}"


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
    """Take a canonical name apart; None if it is not one.

    Example:
        >>> parse_site("resid_out_3")
        SiteName(kind='resid_out', layer=3)
        >>> parse_site("model.norm:out") is None
        True
    """
    match = _CANONICAL.fullmatch(name)
    if match is None:
        return None
    if match["model"]:
        return SiteName(match["model"], None)
    return SiteName(match["kind"], int(match["layer"]))


def split_side(pattern: str) -> tuple[str, HookPoint | None]:
    """Split `PATH:side[i]` into PATH and its side; no side is `(pattern, None)`.

    Example:
        >>> split_side("model.layers.*.mlp:in")
        ('model.layers.*.mlp', HookPoint(path='model.layers.*.mlp', side='in', index=None))
        >>> split_side("resid_out_*")
        ('resid_out_*', None)
    """
    match = _SIDE.fullmatch(pattern)
    if match is None:
        return pattern, None
    side: Literal["out", "in"] = "in" if match["side"] == "in" else "out"
    index = None if match["index"] is None else int(match["index"])
    return match["path"], HookPoint(match["path"], side, index)


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern means, in their order; an empty list if there are none.

    A pattern is a name itself, a glob (`*`, `?`, `[abc]`, alternatives `{3,7}`, numbers `[4-11]`,
    each of which takes a whole number) or `re:` and a regular expression that matches in full.

    Raises:
        CaptureError: the regular expression is not one.

    Example:
        >>> match_names("resid_out_[9-11]", [f"resid_out_{i}" for i in range(20)])
        ['resid_out_9', 'resid_out_10', 'resid_out_11']
        >>> match_names("mlp_{in,act}_0", ["mlp_in_0", "mlp_act_0", "mlp_out_0"])
        ['mlp_in_0', 'mlp_act_0']
    """
    known = list(names)
    if pattern in known:
        return [pattern]
    accepts = _regular_expression(pattern[3:]) if pattern.startswith("re:") else _glob(pattern)
    return [name for name in known if accepts(name)]


def _regular_expression(text: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(text)
    except re.error as exc:
        raise CaptureError(f"'re:{text}' is not a valid regular expression: {exc}.") from exc
    return lambda name: compiled.fullmatch(name) is not None


def _glob(pattern: str) -> Callable[[str], bool]:
    """Compile a glob. Number ranges are compared as numbers, so that their size costs nothing."""
    parts: list[str] = []
    ranges: list[range] = []
    end = 0
    for token in _GLOB_TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        parts.append(_glob_token(token, ranges))
        end = token.end()
    try:
        compiled = re.compile("".join(parts) + re.escape(pattern[end:]), re.DOTALL)
    except re.error as exc:  # a range of letters that runs backwards
        raise CaptureError(f"{pattern!r} is not a valid pattern: {exc}.") from exc

    def accepts(name: str) -> bool:
        match = compiled.fullmatch(name)
        return match is not None and all(
            int(number) in allowed for number, allowed in zip(match.groups(), ranges, strict=True)
        )

    return accepts


def _glob_token(token: re.Match[str], ranges: list[range]) -> str:
    if token["star"]:
        return ".*"
    if token["any"]:
        return "."
    if token["first"]:
        ranges.append(range(int(token["first"]), int(token["last"]) + 1))
        return r"(?<!\d)(\d+)(?!\d)"
    if token["chars"]:
        negate = "^" if token["negate"] else ""
        # ranges such as a-z keep their dash; whatever else means something to `re` is escaped
        chars = re.sub(r"([\\^&~|])", r"\\\1", token["chars"])
        return f"[{negate}{chars}]"
    choices = token["choices"].split(",")
    return f"(?:{'|'.join(re.escape(choice.strip()) for choice in choices)})"
