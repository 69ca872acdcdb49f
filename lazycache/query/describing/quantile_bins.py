"""The range of one unit cut into bins, and rows of each: what a unit is at every strength."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from lazycache.cache.aggregates.quantiles import ranked
from lazycache.cache.aggregates.row_stream import NUMBERED_ROWS, RowStream, by_rows
from lazycache.cache.aggregates.statistics import known_of_stream
from lazycache.cache.joined.memory_reader import from_tensor
from lazycache.cache.reading.ordering import keys_of, values_of_keys
from lazycache.cache.selecting.selection import Dense, Lead
from lazycache.cache.tables.row_origins import picked
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.faces import html
from lazycache.query.asked import Cache, Params, Site, tensor_of, unit_of
from lazycache.query.hits import Hits, hits_of

Cut = Literal["quantile", "width"]
"""How the range is cut: into bins of as many rows each, or of one width."""

HELD_BYTES = 256 << 20
"""A column of so many bytes is read once and held."""

SCAN_ROWS = 1 << 16
"""Rows that are looked at at once."""

MOST_BINS = 10_000

SHOWN = 20
"""Bins that a notebook shows."""


@dataclass(frozen=True, slots=True, eq=False)
class QuantileBin:
    """Values between two edges, and some of the rows that have them.

    `for low, high, hits in cache.quantile_samples(...)` takes one apart.
    """

    low: float
    """The least value that is in it."""
    high: float
    """Where it ends: not in it, but in the last bin."""
    hits: Hits
    """Some of its rows by chance, in the order of the rows."""
    count: int
    """How many rows it has."""

    def __iter__(self) -> Iterator[float | Hits]:
        return iter((self.low, self.high, self.hits))

    def _repr_html_(self) -> str:
        """Show its edges and rows in a notebook. All text is escaped."""
        title = f"{html.number(self.low)} to {html.number(self.high)}: {self.count:,} rows"
        return html.card(title, self.hits._repr_html_(), kind="QuantileBin")


class QuantileBins(list[QuantileBin]):
    """A list of bins, which a notebook shows with their edges, counts and rows."""

    def _repr_html_(self) -> str:
        """Show how many rows each bin has, then rows of each. All text is escaped."""
        rows = [(one.low, one.high, one.count) for one in self]
        shown = [one._repr_html_() for one in self[:SHOWN]]
        more = [html.facts([("... and more bins", len(self) - SHOWN)])] if len(self) > SHOWN else []
        counts = html.table(("from", "to", "rows"), rows[:SHOWN])
        return html.card(f"{len(self)} bins", counts, *shown, *more, kind="QuantileBins")


def quantile_samples(
    cache: Cache,
    site: Site,
    unit: int | Sequence[int] | None,
    bins: int = 10,
    n: int = 5,
    *,
    by: Cut = "quantile",
    seed: int = 0,
    where: str | None = None,
    params: Params = None,
    context: int = 10,
) -> list[QuantileBin]:
    """Return bins of a unit, with rows of each; see `ActivationCache.quantile_samples`."""
    _check(bins, n, by, seed)
    x = unit_of(tensor_of(cache, site, where=where, params=params), unit)
    numbered = _in_order(x)
    edges = _edges(numbered, bins, by)
    if edges is None:
        return QuantileBins()
    drawn = _Drawn(edges, n, seed)
    for first, rows, block in _blocks(numbered):
        drawn.add(first, rows, block)
    return _bins(x, edges, drawn, context)


def _check(bins: int, n: int, by: str, seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise QueryError(f"quantile_samples(seed={seed!r}): a whole number from 0.")
    for name, number, most in (("bins", bins, MOST_BINS), ("n", n, 1 << 20)):
        try:
            fits = 1 <= operator.index(number) <= most and not isinstance(number, bool)
        except TypeError:
            fits = False
        if not fits:
            raise QueryError(
                f"quantile_samples({name}={number!r}): a whole number from 1 to {most:,}."
            )
    if by not in get_args(Cut):
        raise QueryError(
            f"quantile_samples(by={by!r}): 'quantile' (bins of as many rows each) or 'width' (bins "
            "of one width)."
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """The values of a unit, example after example."""

    x: LazyTensor
    """What they are read from: the tensor that was asked about, or what was read of it."""
    lead: Lead
    """Their rows in it, in order."""
    rows: range | np.ndarray | None
    """Of what was read: the row of each place in the tensor that was asked about."""


def _in_order(x: LazyTensor) -> _Column:
    """Return the column, in memory where it is not large: it is looked at several times."""
    # rows of examples that the site lacks are no rows
    lead = x.rows.lead if isinstance(x.lead, Dense) else x.lead
    if x.nbytes > HELD_BYTES:
        return _Column(x, lead, None)
    rows = lead.flat()
    held = from_tensor(x.values_of(rows).cpu())
    return _Column(held, held.lead, rows)


def _blocks(column: _Column) -> Iterator[tuple[int, range | np.ndarray, torch.Tensor]]:
    """Yield the place of the first of some rows, the rows, and their values."""
    place = 0
    for part in column.lead.blocks(rows=NUMBERED_ROWS):
        rows, at = part.flat(), 0
        for block in column.x.scan(rows, block_rows=SCAN_ROWS):
            here = rows[at : at + len(block)]
            if column.rows is not None:
                here = column.rows[place : place + len(block)]
            yield place, here, block.cpu()
            place, at = place + len(block), at + len(block)


def _edges(column: _Column, bins: int, by: Cut) -> np.ndarray | None:
    """Return float64[bins + 1] edges that ascend, of the finite values; None if there are none.

    Edges that are alike are one: there are fewer bins then, and one with two equal edges where all
    values are alike.
    """
    stream = by_rows(column.x)
    known = known_of_stream(stream)
    finite = 0 if known is None else int(known.finite.sum())
    if known is None or not finite:
        return None
    if by == "width":
        edges = _even(float(known.min.double()), float(known.max.double()), bins)
    else:
        edges = _at_quantiles(stream, int(known.neg_infs.sum()), finite, bins)
    distinct: np.ndarray = np.unique(edges)
    return distinct if len(distinct) > 1 else np.repeat(distinct, 2)


def _even(low: float, high: float, bins: int) -> np.ndarray:
    # the difference of the two may be beyond float64
    part = np.arange(bins + 1) / bins
    edges: np.ndarray = low * (1 - part) + high * part
    edges[0], edges[-1] = low, high
    return edges.clip(low, high)


def _at_quantiles(stream: RowStream, before: int, finite: int, bins: int) -> np.ndarray:
    """Return the quantiles of the finite values, which come after `before` others in order."""
    # in whole numbers: a place is exact, however many rows there are
    whole, part = np.divmod(np.arange(bins + 1) * (finite - 1), bins)
    ranks = np.unique(np.concatenate([whole, whole + (part > 0)]))
    values, _ = ranked(stream, (before + ranks).tolist())
    found = values[:, 0].double().cpu().numpy()
    low = found[np.searchsorted(ranks, whole)]
    high = found[np.searchsorted(ranks, whole + (part > 0))]
    weight = part / bins
    edges: np.ndarray = np.where(part > 0, low * (1 - weight) + high * weight, low)
    # rounding shall not carry an edge past the values that it is between
    return edges.clip(low, high)


class _Drawn:
    """Counts the values of each bin, and keeps the rows of each that come first by chance.

    Every place has a number of its own that looks random: the rows of a bin with the `n` least
    numbers are a sample of it, which does not depend on how the rows come in.
    """

    def __init__(self, edges: np.ndarray, n: int, seed: int) -> None:
        self._inner = edges[1:-1]
        self._n = n
        self._seed = seed
        bins = len(edges) - 1
        self.counts = np.zeros(bins, dtype=np.int64)
        # a row has to be below it to be among the first of its bin
        self._bar = np.full(bins, np.iinfo(np.uint64).max, dtype=np.uint64)
        empty = np.empty(0, dtype=np.int64)
        self._kept = (empty, empty.astype(np.uint64), empty, empty, empty)

    def add(self, first: int, rows: range | np.ndarray, values: torch.Tensor) -> None:
        """Take in values and their rows; the first of them is at the place `first`."""
        wide = values.double().numpy()
        there = np.flatnonzero(~np.isnan(wide))
        # a value at an edge is above it; what is infinite is beyond the inner edges
        member = np.searchsorted(self._inner, wide[there], side="right")
        self.counts += np.bincount(member, minlength=len(self.counts))
        numbers = scattered(there + first, self._seed)
        early = numbers <= self._bar[member]
        chosen = there[early]
        keys = keys_of(values[torch.from_numpy(chosen)]).numpy()
        found = (member[early], numbers[early], chosen + first, picked(rows, chosen), keys)
        self._settle(found)

    def _settle(self, found: tuple[np.ndarray, ...]) -> None:
        both = [np.concatenate(pair) for pair in zip(self._kept, found, strict=True)]
        order = np.lexsort((both[1], both[0]))
        member = both[0][order]
        begins = np.searchsorted(member, np.arange(len(self.counts)))
        rank = np.arange(len(member)) - begins[member]
        kept = order[rank < self._n]
        self._kept = tuple(one[kept] for one in both)
        last = rank == self._n - 1
        self._bar[member[last]] = both[1][order[last]]

    def rows(self, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
        """Return bins, rows and values of what was kept, by bin and place."""
        member, _, place, rows, keys = self._kept
        order = np.lexsort((place, member))
        values = values_of_keys(torch.from_numpy(keys[order]), dtype)
        return member[order], rows[order], values


def scattered(places: np.ndarray, seed: int) -> np.ndarray:
    """Return a number for each place, all different, that looks random: uint64[n].

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which is one to one.

    Example:
        >>> scattered(np.arange(2), 0).tolist()
        [16294208416658607535, 7960286522194355700]
    """
    golden = 0x9E3779B97F4A7C15
    with np.errstate(over="ignore"):
        step = np.uint64((seed * 0xD1342543DE82EF95 + golden) % (1 << 64))
        z = places.astype(np.uint64) * np.uint64(golden) + step
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def _bins(x: LazyTensor, edges: np.ndarray, drawn: _Drawn, context: int) -> QuantileBins:
    member, rows, values = drawn.rows(x.dtype)
    hits = hits_of(x, values, rows, context=context)
    ends = np.searchsorted(member, np.arange(len(edges)))
    return QuantileBins(
        QuantileBin(float(low), float(high), hits[int(start) : int(stop)], int(count))
        for low, high, start, stop, count in zip(
            edges[:-1], edges[1:], ends[:-1], ends[1:], drawn.counts, strict=True
        )
    )
