"""Selection and reduction of a site where its values are, before the copy: less to store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from lazycache.capture.sites.names import HookPoint, match_names, parse_site
from lazycache.errors import CaptureError, nearest

Pool = Literal["mean", "sum", "max"]
"""How the kept rows of an example become one."""

Transform = Callable[[torch.Tensor], torch.Tensor]
"""Function of the kept rows of a site, [rows, ...]: as many rows, of any shape."""

_POOLS = ("mean", "sum", "max")


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """The heads or units of a site that are kept."""

    axis: Literal["heads", "units"]
    """What is counted: the first dimension of a row, or its last."""
    index: tuple[int, ...]
    """Which of them, in the order in which they are stored."""
    _at: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def of(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Take them out of [rows, ...] (or of attention, [batch, heads, query, key])."""
        dim = 1 if self.axis == "heads" else values.ndim - 1
        least = 3 if self.axis == "heads" else 2
        if values.ndim < least or max(self.index) >= values.shape[dim]:
            raise CaptureError(
                f"{name}: {self.axis} {list(self.index)} were asked for, but its rows have shape "
                f"{list(values.shape[1:])}."
            )
        at = self._at.get(values.device)
        if at is None:
            at = self._at[values.device] = torch.tensor(self.index, device=values.device)
        return values.index_select(dim, at)


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """What is done to the kept rows of one site, in this order."""

    transform: Transform | None = None
    """A function of the user."""
    subset: Subset | None = None
    """Heads or units that are kept."""
    pool: Pool | None = None
    """How the rows of an example become one; None keeps them all."""


def make_reductions(
    points: Mapping[str, HookPoint],
    *,
    pool: str | None = None,
    transform: Mapping[str, Transform] | None = None,
    heads: Mapping[str, Iterable[int]] | None = None,
    units: Mapping[str, Iterable[int]] | None = None,
) -> dict[str, Reduction]:
    """Say what is done to each site; patterns are those of site names.

    Raises:
        CaptureError: a pattern that fits no captured site, or two that fit the same; numbers that
            are no heads of the site; what cannot be done to attention patterns, whose rows differ
            in width.

    Example:
        >>> points = {"0:out": HookPoint("0", "out")}
        >>> make_reductions(points, units={"0": [2, 5]})["0:out"].subset.index
        (2, 5)
    """
    _check_pool(pool, points)
    functions = by_site("transform", transform, points)
    head_lists = by_site("heads", heads, points)
    unit_lists = by_site("units", units, points)
    for name, function in functions.items():
        if not callable(function):
            raise CaptureError(f"transform of {name}: {function!r:.60} cannot be called.")
        refuse_ragged("transform", name, points[name])
    return {
        name: Reduction(
            functions.get(name), _subset(name, point, head_lists, unit_lists), _as_pool(pool)
        )
        for name, point in points.items()
    }


def _check_pool(pool: object, points: Mapping[str, HookPoint]) -> None:
    if pool is None:
        return
    if pool not in _POOLS:
        raise CaptureError(f"pool={pool!r}: it can be 'mean', 'sum', 'max', or None to keep rows.")
    for name, point in points.items():
        refuse_ragged("pool", name, point)


def _as_pool(pool: str | None) -> Pool | None:
    return next((known for known in ("mean", "sum", "max") if known == pool), None)


def is_ragged(point: HookPoint) -> bool:
    """Say whether the rows of a site differ in width: attention probabilities.

    Example:
        >>> is_ragged(HookPoint("0", "out"))
        False
    """
    return point.cut is not None and point.cut.kind == "pattern"


def refuse_ragged(what: str, name: str, point: HookPoint) -> None:
    """Raise `CaptureError` if a site has rows that differ in width."""
    if is_ragged(point):
        raise CaptureError(
            f"{what} cannot be applied to {name}: its rows are as wide as their example is long. "
            "Capture it by itself."
        )


def by_site(what: str, given: object, points: Mapping[str, HookPoint]) -> dict[str, Any]:
    """Return what was given by pattern by the name of the site."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise CaptureError(
            f"{what}={given!r:.60} is a {type(given).__name__}; a mapping of site name or pattern "
            f"is needed: {what}={{'resid_out_*': ...}}."
        )
    found: dict[str, Any] = {}
    for pattern, value in given.items():
        for name in _matched(what, pattern, points):
            if name in found:
                raise CaptureError(f"{what}: two patterns fit {name}; give one for each site.")
            found[name] = value
    return found


def _matched(what: str, pattern: object, names: Collection[str]) -> list[str]:
    if not isinstance(pattern, str):
        raise CaptureError(f"{what}: {pattern!r:.60} is no name or pattern of sites.")
    # as where sites are asked for, a module path means its output
    found = match_names(pattern, names) or match_names(f"{pattern}:out", names)
    if not found and what == "heads":
        found = _as_head_out(pattern, names)
    if not found:
        raise CaptureError(
            f"{what}: {pattern!r} fits none of the captured sites. {nearest(pattern, names)}"
        )
    return found


def _as_head_out(pattern: str, names: Collection[str]) -> list[str]:
    """Return the `z` that a pattern of `head_out` means: to ask for one captures the other."""
    parsed = {name: parse_site(name) for name in names}
    kept = {name: site for name, site in parsed.items() if site is not None and site.kind == "z"}
    meant = {str(replace(site, kind="head_out")): name for name, site in kept.items()}
    return [meant[head_out] for head_out in match_names(pattern, meant)]


def _subset(
    name: str, point: HookPoint, heads: Mapping[str, Any], units: Mapping[str, Any]
) -> Subset | None:
    if name in heads and name in units:
        raise CaptureError(f"{name}: heads and units were given; a site is cut along one of them.")
    if name in heads:
        if point.cut is None:
            raise CaptureError(
                f"{name} has no heads. Those that have are queries, keys, values, z and pattern of "
                "a known architecture; choose units=... of others."
            )
        return Subset("heads", _numbers("heads", name, heads[name], limit=point.cut.row[0]))
    if name in units:
        refuse_ragged("units", name, point)
        limit = None if point.cut is None else point.cut.row[1]
        return Subset("units", _numbers("units", name, units[name], limit=limit))
    return None


def _numbers(what: str, name: str, given: object, *, limit: int | None) -> tuple[int, ...]:
    listed = _listed(given)
    good = bool(listed) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in listed
    )
    if not good:
        raise CaptureError(
            f"{what} of {name}: {given!r:.60} is no list of numbers; they count from 0."
        )
    if len(set(listed)) < len(listed):
        raise CaptureError(f"{what} of {name}: {given!r:.60} names one twice.")
    if limit is not None and max(listed) >= limit:
        raise CaptureError(f"{what} of {name}: {max(listed)} of {limit} (0 to {limit - 1}).")
    return tuple(int(n) for n in listed)


def _listed(given: object) -> list[Any]:
    if isinstance(given, torch.Tensor | np.ndarray):
        return [given.tolist()] if given.ndim == 0 else list(given.tolist())
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        return []
    return list(given)


def transformed(name: str, rows: torch.Tensor, function: Transform) -> torch.Tensor:
    """Apply a function of the user, and refuse what are not as many rows.

    Raises:
        CaptureError: it returned no tensor, or another number of rows.

    Example:
        >>> transformed("x", torch.ones(2, 3), lambda rows: rows.sum(1))
        tensor([3., 3.])
    """
    result = function(rows)
    if not isinstance(result, torch.Tensor):
        raise CaptureError(
            f"{name}: transform returned {type(result).__name__}; a tensor with a row for each of "
            f"the {len(rows)} rows is needed."
        )
    if not result.ndim or len(result) != len(rows):
        raise CaptureError(
            f"{name}: transform returned {list(result.shape)} for {list(rows.shape)}: as many rows "
            "are needed, since each belongs to a token or example."
        )
    return result.detach()


def pooled(rows: torch.Tensor, counts: Iterable[int], pool: Pool) -> torch.Tensor:
    """Make one row of the rows of each example: the first `counts[0]` rows, the next, ...

    Mean and sum are accumulated in float32 (float64 stays) and returned in the dtype of the rows;
    of integers the sum is int64 and the mean float32. What an example gives does not depend on the
    others of its batch, bit for bit.

    Cost: one small operation per example.

    Example:
        >>> pooled(torch.tensor([[1.0], [3.0], [5.0]]), [2, 1], "mean")
        tensor([[2.],
                [5.]])
    """
    parts = torch.split(rows, list(counts))
    if pool == "max":
        return torch.stack([part.amax(0) for part in parts])
    if not rows.is_floating_point():
        if pool == "sum":
            return torch.stack([part.sum(0) for part in parts])
        return torch.stack([part.float().mean(0) for part in parts])
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    each = [getattr(part, pool)(0, dtype=wide) for part in parts]
    return torch.stack(each).to(rows.dtype)
