"""How alike two sites are as representations of the same rows: CKA, SVCCA, Procrustes."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch

from lazycache.cache.selecting.plan import blocks
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import MemoryBudgetError, QueryError
from lazycache.late_bars import late_bar
from lazycache.query.asked import Cache, Params, Site, tensor_of
from lazycache.query.comparing.paired_rows import paired_rows
from lazycache.query.comparing.streaming_moments import CrossMoments

Likeness: TypeAlias = Literal["cka", "svcca", "procrustes"]
"""How representations are compared."""

MOST_BYTES = 4 << 30
"""Products that may be in memory."""

BLOCK_BYTES = 32 << 20
"""Values of both sites that are in memory at a time, in float64."""

_ENOUGH = 2
_NOISE = 16 * torch.finfo(torch.float64).eps


def similarity(
    cache: Cache,
    a: Site,
    b: Site,
    metric: Likeness = "cka",
    *,
    variance: float = 0.99,
    where: str | None = None,
    params: Params = None,
) -> float:
    """Return how alike two sites are, from 0 to 1; see `ActivationCache.similarity`."""
    if metric not in get_args(Likeness):
        known = ", ".join(map(repr, get_args(Likeness)))
        raise QueryError(f"similarity: there is no metric {metric!r}; there are {known}.")
    if not 0 < variance <= 1:
        raise QueryError(f"similarity: variance={variance!r}; it is a share, above 0 and up to 1.")
    one = tensor_of(cache, a, where=where, params=params)
    two = tensor_of(cache, b, where=where, params=params)
    moments = moments_of(one, two)
    _check(moments, one, two)
    if metric == "svcca":
        return _bounded(_svcca(moments, variance))
    return _bounded({"cka": _cka, "procrustes": _procrustes}[metric](moments))


def moments_of(a: LazyTensor, b: LazyTensor) -> CrossMoments:
    """Return the moments of two tensors over their rows.

    Cost: reads both once, block by block; memory does not grow with rows.

    Raises:
        QueryError: their rows are not the same.
        MemoryBudgetError: too many units for their products.
    """
    a, b = a.to(device="cpu"), b.to(device="cpu")
    units = [math.prod(x.row_shape) for x in (a, b)]
    needed = 8 * (units[0] ** 2 + units[1] ** 2 + units[0] * units[1])
    if needed > MOST_BYTES:
        raise MemoryBudgetError(
            f"similarity of {units[0]:,} and {units[1]:,} units needs {needed:,} bytes for their "
            f"products, {MOST_BYTES:,} are allowed: compare fewer units, x[..., :1024]."
        )
    rows = paired_rows(a, b)
    total = CrossMoments.of(torch.zeros(0, units[0]), torch.zeros(0, units[1]))
    size = max(*units, BLOCK_BYTES // (8 * max(1, sum(units))))
    with late_bar(f"comparing {a.site}, {b.site}", total=len(rows[0]), unit="rows") as bar:
        for start, stop in blocks(len(rows[0]), size=size):
            values = (
                x.values_of(numbers[start:stop]).reshape(stop - start, count)
                for x, numbers, count in zip((a, b), rows, units, strict=True)
            )
            total = total.merged(CrossMoments.of(*values))
            bar.advance(stop - start)
    return total


def _check(moments: CrossMoments, a: LazyTensor, b: LazyTensor) -> None:
    if moments.rows < _ENOUGH:
        raise QueryError(
            f"similarity of {a!r} and {b!r}: there are {moments.rows} rows in which all values of "
            "both are finite; two at least can be compared."
        )
    for x, products in ((a, moments.aa), (b, moments.bb)):
        spread = float(products.trace())
        if not 0 < spread < torch.inf:
            why = "all its rows are alike" if spread == 0 else "its values are too large"
            raise QueryError(f"similarity: {x!r} has no spread to compare in float64, {why}.")


def _cka(moments: CrossMoments) -> float:
    """Return linear CKA: |A'B|^2 / (|A'A| |B'B|), Frobenius norms; Kornblith et al. 2019."""
    # traces first: squares of large products would overflow
    a, b = moments.aa.trace(), moments.bb.trace()
    both = (moments.ab / (a.sqrt() * b.sqrt())).square().sum()
    return float(both / ((moments.aa / a).norm() * (moments.bb / b).norm()))


def _procrustes(moments: CrossMoments) -> float:
    """Return |A'B|_* / (|A| |B|), of which 2 - 2x is the distance of Ding et al. 2021."""
    scale = moments.aa.trace().sqrt() * moments.bb.trace().sqrt()
    return float(torch.linalg.svdvals(moments.ab / scale).sum())


def _svcca(moments: CrossMoments, variance: float) -> float:
    """Return the mean canonical correlation of the directions with most variance; Raghu et al."""
    a, b = _whitening(moments.aa, variance), _whitening(moments.bb, variance)
    return float(torch.linalg.svdvals(a.T @ moments.ab @ b).mean())


def _whitening(products: torch.Tensor, variance: float) -> torch.Tensor:
    """Return directions with a share of the variance, each over its spread: [units, kept]."""
    values, directions = (part.flip(-1) for part in torch.linalg.eigh(products))
    share = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    # as many as reach the share; what is rounding is no direction
    kept = int((share < variance - _NOISE).count_nonzero()) + 1
    kept = min(kept, int((values > values[0] * len(values) * _NOISE).count_nonzero()))
    found: torch.Tensor = directions[:, :kept] / values[:kept].sqrt()
    return found


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
