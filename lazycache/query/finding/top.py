"""The rows in which a unit, a direction or a score is largest or smallest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from lazycache.cache.aggregates.extremes import NOWHERE, Top
from lazycache.cache.aggregates.row_stream import by_rows
from lazycache.cache.aggregates.topk import best_rows
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.asked import tensor_of, unit_of
from lazycache.query.finding.best_of_examples import BestOfExamples
from lazycache.query.finding.directions import furthest
from lazycache.query.finding.scores import Along, Scored, Scores, scores_of
from lazycache.query.hits import hits_of

if TYPE_CHECKING:
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.hits import Hits

Unit: TypeAlias = "int | Sequence[int] | None"
"""An index for each dimension of a row."""

Score: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Gives one number for each row: values [n, *row] to [n]."""

MORE = (8, 64)
"""Of the best rows of one unit, so many times k are looked at for the best of k examples."""

FEW = 4
"""They are looked at first if they are fewer than one of so many: else all rows are."""

Best: TypeAlias = "tuple[torch.Tensor, np.ndarray]"
"""Values and their rows, best first: [k] each."""


def top_k(
    cache: Cache,
    site: Site,
    unit: Unit = None,
    *,
    direction: Any = None,
    score: Score | None = None,
    k: int = 20,
    largest: bool = True,
    where: str | None = None,
    params: Params = None,
    per_example: bool = False,
    context: int = 10,
) -> Hits:
    """Return the rows in which something is largest; see `ActivationCache.top_k`."""
    _check(k, unit, direction, score)
    x = tensor_of(cache, site, where=where, params=params)
    if direction is None and score is None:
        best = best_of_unit(unit_of(x, unit), k, largest=largest, per_example=per_example)
    elif score is not None:
        best = _streamed(x, Scored(score), k, largest=largest, per_example=per_example)
    else:
        best = _along(x, Along.of(x, direction), k, largest=largest, per_example=per_example)
    return hits_of(x, *best, context=context)


def _check(k: int, unit: Unit, direction: Any, score: Score | None) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise QueryError(f"top_k(k={k!r}): k is how many rows, 1 at least.")
    if sum(one is not None for one in (unit, direction, score)) > 1:
        raise QueryError(
            "top_k takes a unit, a direction or a score, one of them: of a direction in one head "
            'say, top_k(cache["z_3"][:, :, 5], direction=...).'
        )


def _along(x: LazyTensor, along: Along, k: int, *, largest: bool, per_example: bool) -> Best:
    best = None if per_example else furthest(x, along.direction, k, largest=largest)
    return best or _streamed(x, along, k, largest=largest, per_example=per_example)


def best_of_unit(x: LazyTensor, k: int, *, largest: bool, per_example: bool) -> Best:
    """Return the best rows of one number per row, and their values; rows are those of its source.

    As `top_k` of a unit: exact, a NaN is none, and of equal values the lower row comes first.

    Example:
        >>> from lazycache.samples import small_cache
        >>> x = small_cache()["resid_out_0"][..., 1]
        >>> best_of_unit(x, 2, largest=True, per_example=False)
        (tensor([11.,  9.]), array([5, 4]))
    """
    rows = by_rows(x).rows
    if not per_example or not rows:
        return _best(x, min(k, rows), largest=largest)
    for times in MORE:
        wanted = min(rows, times * k)
        if wanted > rows // FEW and wanted < rows:
            break
        values, numbers = _first_of_examples(x, _best(x, wanted, largest=largest))
        if len(numbers) >= k or wanted == rows:
            return values[:k], numbers[:k]
    return _streamed(x, Scored(torch.clone), k, largest=largest, per_example=True)


def _best(x: LazyTensor, k: int, *, largest: bool) -> Best:
    """Return the best rows of one unit; of fewer that are no NaN, these."""
    if not k:
        return torch.empty(0, dtype=x.dtype), np.empty(0, dtype=np.int64)
    values, numbers = best_rows(x, k, largest=largest, nans=False)
    there = numbers[:, 0] != NOWHERE
    return values[there, 0], numbers[there, 0]


def _first_of_examples(x: LazyTensor, best: Best) -> Best:
    """Return of each example the first of its rows, in order."""
    examples, _ = x.source.examples().places(best[1])
    first = np.sort(np.unique(examples, return_index=True)[1])
    return best[0][torch.from_numpy(first)], best[1][first]


def _streamed(x: LazyTensor, scores: Scores, k: int, *, largest: bool, per_example: bool) -> Best:
    """Return the best by scores that are worked out of every selected row."""
    examples = x.source.examples() if per_example else None
    best = None if examples is None else BestOfExamples(len(examples), largest=largest)
    total: Top | None = None
    dtype = torch.float32
    for rows, found in scores_of(x, scores):
        dtype = found.dtype
        if best is not None and examples is not None:
            best.add(examples.places(rows)[0], found, rows)
            continue
        total = Top(k, 1, dtype, largest=largest) if total is None else total
        total.add(found[:, None], rows)
    if best is not None:
        return best.result(k, dtype)
    if total is None:
        return torch.empty(0, dtype=dtype), np.empty(0, dtype=np.int64)
    values, numbers = total.result()
    there = numbers[:, 0] != NOWHERE
    return values[there, 0], numbers[there, 0]
