"""The rows that are most like a vector: by cosine, distance or product, exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from lazycache.cache.aggregates.row_stream import by_rows, row_parts
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params, Site, tensor_of
from lazycache.query.finding.best_rows import BestRows
from lazycache.query.finding.query_tile import Metric, QueryTile
from lazycache.query.finding.query_vectors import Vectors, units_of, vectors_of
from lazycache.query.finding.row_norms import norms_of
from lazycache.query.finding.score_bounds import BFLOAT16, Products, adds_bfloat16, close_arithmetic
from lazycache.query.hits import Hits, hits_of

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.query.finding.query_vectors import UnitIndex

TILE = 256
"""Queries that are compared with a block at once."""

BLOCK_BYTES = 24 << 20
"""Values that are looked at at once: a block costs 0.4 ms of Python, its products 2.5."""

SCORES = 1 << 19
"""Scores that are in memory at once, of each thread."""

_MANY = 4
_FEW = 64
_FLOATS = {torch.bfloat16, torch.float16, torch.float32, torch.float64}
_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def similar(
    cache: Cache,
    site: Site,
    to: Vectors,
    k: int = 20,
    metric: Metric = "cosine",
    *,
    units: UnitIndex = None,
    where: str | None = None,
    params: Params = None,
    context: int = 10,
) -> Hits | list[Hits]:
    """Return the k rows that are most like `to`; see `ActivationCache.similar`."""
    if metric not in get_args(Metric):
        known = ", ".join(map(repr, get_args(Metric)))
        raise QueryError(f"similar: there is no metric {metric!r}; there are {known}.")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise QueryError(f"similar: k={k!r}; it is a number of rows, 1 or more.")
    x = tensor_of(cache, site, where=where, params=params).to(device="cpu")
    vectors, alone = vectors_of(to, x, units)
    best = nearest(units_of(x, units), vectors, int(k), metric)
    found = [best.of(query) for query in range(len(vectors))]
    hits = _named(x, found, sign=-1.0 if metric == "l2" else 1.0, context=context)
    return hits[0] if alone else hits


def _named(
    x: LazyTensor, found: list[tuple[np.ndarray, np.ndarray]], *, sign: float, context: int
) -> list[Hits]:
    """Return the hits of each query; the tables are asked once for all of them."""
    if not found:
        return []
    values, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # adding zero: a distance of 0 is not -0
    together = hits_of(x, torch.from_numpy(sign * values + 0.0), rows, context=context)
    ends = np.cumsum([len(rows) for _, rows in found]).tolist()
    return [together[start:stop] for start, stop in pairwise([0, *ends])]


def nearest(x: LazyTensor, vectors: torch.Tensor, k: int, metric: Metric) -> BestRows:
    """Return the k best rows of `x`, whatever its units, for each of [queries, units].

    Cost: reads what is selected once. Memory: the vectors, k rows for each, and scores of a block
    of rows with 256 queries.
    """
    stream = by_rows(x)
    k = min(k, max(1, stream.rows))
    search = _Search(vectors, k, metric, x)

    def numbered() -> Iterator[tuple[Rows, torch.Tensor]]:
        for rows in row_parts(x):
            at = 0
            for block in x.scan(rows, block_rows=_block_rows(x, len(vectors))):
                yield rows[at : at + len(block)], stream.matrix(block)
                at += len(block)

    def look(numbered: tuple[Rows, torch.Tensor]) -> list[_Pairs]:
        return search.look(*numbered)

    if stream.rows:
        for found in ordered(look, numbered(), workers=threads(x.nbytes)):
            for pairs in found:
                search.best.add(*pairs)
    return search.best


def _places(there: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of what is true; mostly nothing is."""
    rows = there.any(dim=1).nonzero()[:, 0]
    row, column = there[rows].nonzero(as_tuple=True)
    return rows[row].numpy(), column.numpy()


def _block_rows(x: LazyTensor, queries: int) -> int:
    by_values = BLOCK_BYTES // max(1, math.prod(x.row_shape) * x.dtype.itemsize)
    by_scores = SCORES // max(1, min(queries, TILE))
    return max(1, min(by_values, by_scores))


class _Search:
    """Looks for rows that may be among the best: fast, then closer, then exactly."""

    def __init__(self, vectors: torch.Tensor, k: int, metric: Metric, x: LazyTensor) -> None:
        self._k = k
        self._tiles = [
            QueryTile(vectors[start : start + TILE], metric)
            for start in range(0, len(vectors), TILE)
        ]
        self._close = close_arithmetic(vectors.shape[1])
        is_fast = x.dtype == torch.bfloat16 and adds_bfloat16(vectors.shape[1])
        self._arithmetic = BFLOAT16 if is_fast else self._close
        self._norms = norms_of(x, self._arithmetic.dtype)
        self.best = BestRows(len(vectors), k)
        """What was found so far: a bar to what comes, though blocks are looked at some ahead."""

    def look(self, numbers: Rows, block: torch.Tensor) -> list[_Pairs]:
        """Return queries, exact values and rows of what may be among the best."""
        if block.dtype not in _FLOATS:
            block = block.to(torch.float64)
        known, latest = self.best.bars
        first_row = min(numbers[0], numbers[-1]) if isinstance(numbers, range) else numbers.min()
        bars, later = torch.from_numpy(known), int(first_row) > latest
        found, first = [], 0
        fast = block.to(self._arithmetic.dtype)
        norms = None if self._norms is None else self._norms.of(numbers)
        is_new = norms is None
        for tile in self._tiles:
            bar = tile.bars(bars[first : first + len(tile)])
            products = self._arithmetic.products(fast, tile.vectors(self._arithmetic), norms)
            norms = products.norms
            there = self._candidates(tile, block, products, bar, later=later)
            if there is not None:
                rows, queries = _places(there)
                values = tile.exact(block, rows, queries)
                found.append((queries + first, values, as_array(numbers)[rows]))
            first += len(tile)
        if is_new and norms is not None and self._norms is not None:
            self._norms.keep(numbers, norms)
        return found

    def _candidates(
        self,
        tile: QueryTile,
        block: torch.Tensor,
        products: Products,
        bars: torch.Tensor,
        *,
        later: bool,
    ) -> torch.Tensor | None:
        """Return which pairs may reach the bars: bool[rows, queries]; None: none does."""
        arithmetic = self._close
        products = products.with_zeros(block, tile)
        bars, there = self._above(products, tile, bars, later=later)
        reached = int(there.count_nonzero())
        if not reached:
            return None
        if self._arithmetic is not arithmetic and self._is_much(reached, tile):
            close = there.any(dim=1).nonzero()[:, 0]
            part = block[close]
            products = arithmetic.products(part.to(arithmetic.dtype), tile.vectors(arithmetic))
            bars, closer = self._above(products.with_zeros(part, tile), tile, bars, later=later)
            there[close] &= closer
        return self._without_nan(block, products.odd, there)

    def _above(
        self, products: Products, tile: QueryTile, bars: torch.Tensor, *, later: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bars, raised by the rows themselves where many reach them; and which do."""
        there = products.may_reach(tile, bars, later=later)
        if len(there) >= self._k and self._is_much(int(there.count_nonzero()), tile):
            raised = torch.maximum(bars, products.reached(tile, self._k))
            # of rows that are as good as these the first are not known: none is left out
            return raised, there & products.may_reach(tile, raised, later=False)
        return bars, there

    def _is_much(self, reached: int, tile: QueryTile) -> bool:
        return reached > _FEW + _MANY * self._k * len(tile) // 2

    @staticmethod
    def _without_nan(
        block: torch.Tensor, odd: torch.Tensor | None, there: torch.Tensor
    ) -> torch.Tensor:
        if odd is None or not bool(odd.any()):
            return there
        rows = there.any(dim=1).nonzero()[:, 0]
        there[rows] &= ~block[rows].isnan().any(dim=1)[:, None]
        return there
