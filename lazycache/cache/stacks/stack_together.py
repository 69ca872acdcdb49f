"""Aggregates over the layers of a stack, put together from those of each layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, cast

import torch

from lazycache.cache.computing.arithmetic import elementwise
from lazycache.cache.tensor.aggregate import Dim
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import SelectionError


@dataclass(frozen=True, slots=True)
class Reduction:
    """Which dimensions of each layer go."""

    rest: Dim
    """Numbers, without that of the layers, or "rows"."""
    options: Mapping[str, Any]
    """What each aggregate is given."""

    def of(self, member: Any, op: str, **options: float) -> Any:
        """Return an aggregate of one layer."""
        if self.rest == ():
            return _in_place(member, op)
        return getattr(member, op)(self.rest, **self.options, **options)


Together = Callable[[Sequence[Any], Reduction], Any]
"""Puts an aggregate over layers together from those of each."""


def _in_place(member: Any, op: str) -> Any:
    """Return what an aggregate over no dimension of a layer is: its values."""
    if op in ("all", "any"):
        return member != 0
    if op == "var":
        return 0.0
    if op in ("min", "max"):
        return member
    whole = op == "sum" and not member.dtype.is_floating_point
    return member.to(torch.int64 if whole else torch.float64)


def _add(a: Any, b: Any) -> Any:
    return a + b


def _pairwise(function: Callable[..., Any], results: Iterable[Any]) -> Any:
    """Combine results two by two: lazily if they are, with numbers if they are numbers."""

    def combined(a: Any, b: Any) -> Any:
        lazy = isinstance(a, LazyTensor) and isinstance(b, LazyTensor)
        return elementwise(function, (a, b)) if lazy else function(a, b)

    return reduce(combined, results)


def sum_(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return the sum over layers too."""
    return reduce(_add, (reduction.of(m, "sum") for m in members))


def mean(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return the mean over layers too: they have the same rows, so each counts alike."""
    return reduce(_add, (reduction.of(m, "mean") for m in members)) / len(members)


def least(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return the smallest value over layers too."""
    return _pairwise(torch.minimum, (reduction.of(m, "min") for m in members))


def most(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return the largest value over layers too."""
    return _pairwise(torch.maximum, (reduction.of(m, "max") for m in members))


def both(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return whether all values of all layers differ from zero."""
    return _pairwise(torch.logical_and, (reduction.of(m, "all") for m in members))


def either(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return whether any value of any layer differs from zero."""
    return _pairwise(torch.logical_or, (reduction.of(m, "any") for m in members))


def norm(members: Sequence[Any], reduction: Reduction) -> Any:
    """Return the Euclidean norm over layers too."""
    return reduce(_add, (reduction.of(m, "norm") ** 2 for m in members)) ** 0.5


def variance(correction: float) -> Together:
    """Return the variance over layers too: that inside each, and that of their means."""

    def over_layers(members: Sequence[Any], reduction: Reduction) -> Any:
        means = [reduction.of(m, "mean") for m in members]
        inside = [reduction.of(m, "var", correction=0) for m in members]
        mean = reduce(_add, means) / len(members)
        spread = [(one - mean) ** 2 + var for one, var in zip(means, inside, strict=True)]
        scale = _scale(members[0], reduction, correction, len(members))
        return reduce(_add, spread) * scale

    return over_layers


def _scale(member: Any, reduction: Reduction, correction: float, layers: int) -> torch.Tensor:
    """Return what makes the variance of all layers of the sum of their mean squares.

    Values of one layer, over those of all less the correction; of examples of different length one
    for each.
    """
    if not isinstance(member, LazyTensor):
        raise SelectionError(
            "the variance of attention patterns over layers: take that of each, or .load() first."
        )
    lead, rest = member.lead_ndim, cast("tuple[int, ...]", reduction.rest)
    rows = member.count(tuple(d for d in rest if d < lead)) if rest and rest[0] < lead else 1
    units = math.prod(member.shape[d] for d in rest if d >= lead)
    values = torch.as_tensor(rows, dtype=torch.float64) * units
    scale = values / (values * layers - correction).clamp(min=0)
    return scale[(..., *(None,) * _behind(member, reduction))] if scale.ndim else scale


def _behind(member: LazyTensor, reduction: Reduction) -> int:
    """Return how many dimensions a result for each example has behind that of the examples."""
    rest = cast("tuple[int, ...]", reduction.rest)
    return member.ndim - 1 if reduction.options["keepdim"] else member.ndim - 1 - len(rest)
