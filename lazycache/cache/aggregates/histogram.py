"""How many values lie between edges: counted in one pass, for each unit or for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.aggregates.reduce import tiles
from lazycache.cache.reading.known import Known
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.faces.bars import bars
from lazycache.faces.html import card, facts
from lazycache.faces.sparklines import sparkline

DRAWN = 4
"""Units whose bars are drawn in a notebook."""

MOST_BYTES = 4 << 30
"""Counts that a histogram may hold."""


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of values between edges; `counts, edges = x.histogram(10)` takes the two apart.

    As numpy's: a value belongs to the bin whose lower edge it is, and to the last bin if it is the
    last edge. What is not finite is in no bin.
    """

    counts: torch.Tensor
    """int64[*units, bins]."""
    edges: torch.Tensor
    """float64[*units, bins + 1], ascending."""
    below: torch.Tensor
    """int64[*units]: finite values below the first edge."""
    above: torch.Tensor
    """int64[*units]: finite values above the last edge."""
    nans: torch.Tensor
    """int64[*units]: values that are NaN."""
    pos_infs: torch.Tensor
    """int64[*units]: values that are infinite."""
    neg_infs: torch.Tensor
    """int64[*units]: values that are minus infinity."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter((self.counts, self.edges))

    def __repr__(self) -> str:
        *units, bins = self.counts.shape
        low, high = float(self.edges.min()), float(self.edges.max())
        of = f"{list(units)} units, " if units else ""
        inside = int(self.counts.sum())
        beside = "".join(f", {count:,} {name}" for name, count in self._beside() if count)
        said = f"Histogram({of}{bins} bins from {low:.6g} to {high:.6g}: {inside:,} values{beside})"
        return said if units else f"{said}\n  {sparkline(self.counts.tolist(), least=0)}"

    def _repr_html_(self) -> str:
        """Draw the bars of the first units in a notebook."""
        counts, edges = self.counts.reshape(-1, self.counts.shape[-1]), self.edges
        edges = edges.reshape(-1, edges.shape[-1])
        drawn = [
            bars(counts[i].numpy(), edges[i].numpy(), title=f"histogram of unit {i}")
            for i in range(min(len(counts), DRAWN))
        ]
        said = facts(
            [
                ("values", int(counts.sum())),
                ("bins", counts.shape[1]),
                *((name, count or None) for name, count in self._beside()),
                ("units", len(counts) if self.counts.ndim > 1 else None),
            ]
        )
        more = facts([("... and more units", len(counts) - DRAWN)]) if len(counts) > DRAWN else ""
        return card("", said, "<br>".join(drawn), more, kind="Histogram")

    def _beside(self) -> tuple[tuple[str, int], ...]:
        """Return how many values are in no bin, and why."""
        infinite = int(self.pos_infs.sum()) + int(self.neg_infs.sum())
        numbers = (int(self.below.sum()), int(self.above.sum()), int(self.nans.sum()), infinite)
        return tuple(zip(("below", "above", "nan", "infinite"), numbers, strict=True))


Bins = int | Sequence[float] | torch.Tensor | np.ndarray
"""How many, or their edges."""


def edges_of(
    bins: Bins, limits: tuple[float, float] | None, units: int, known: Callable[[], Known | None]
) -> np.ndarray:
    """Return the edges of each unit: float64[units, bins + 1].

    `known` says the least and the greatest finite values, where no limits are given.

    Raises:
        SelectionError: no bins, edges that do not ascend, or limits that are not finite.
        MemoryBudgetError: more counts than fit in memory.
    """
    if not isinstance(bins, (int, np.integer)):
        return np.repeat(_given(bins, limits), units, axis=0)
    if bins < 1:
        raise SelectionError(f"histogram({bins}): at least one bin.")
    if 8 * units * bins > MOST_BYTES:
        raise MemoryBudgetError(
            f"{bins:,} bins of {units:,} units need {8 * units * bins:,} bytes in memory, "
            f"{MOST_BYTES:,} are allowed: ask for fewer bins, or of fewer units, x[..., :64]."
        )
    low, high = _ends(limits, units, known)
    with np.errstate(over="ignore"):
        if not np.isfinite(high - low).all() or (high < low).any():
            raise SelectionError(
                f"a histogram from {float(low.min())} to {float(high.max())}: give range=(low, "
                "high), finite and ascending, and not too far apart for float64."
            )
    # as numpy: values that are all alike are in the middle of a bin
    alike = low == high
    edges: np.ndarray = np.linspace(low - 0.5 * alike, high + 0.5 * alike, int(bins) + 1, axis=-1)
    return edges


def _given(bins: Bins, limits: tuple[float, float] | None) -> np.ndarray:
    try:
        edges = np.asarray(bins, dtype=np.float64)
    except (TypeError, ValueError):
        edges = np.empty(0)
    ascending = edges.ndim == 1 and len(edges) > 1 and bool((np.diff(edges) >= 0).all())
    if not ascending or not np.isfinite(edges).all() or limits is not None:
        raise SelectionError(
            "bins of a histogram are a number, or two or more finite edges that ascend and need no "
            "range."
        )
    return edges[None]


def _ends(
    limits: tuple[float, float] | None, units: int, known: Callable[[], Known | None]
) -> tuple[np.ndarray, np.ndarray]:
    if limits is not None:
        try:
            low, high = map(float, limits)
        except (TypeError, ValueError) as exc:
            raise SelectionError(
                f"a histogram over range={limits!r}: two numbers, range=(low, high)."
            ) from exc
        return np.full(units, low), np.full(units, high)
    found = known()
    if found is None:
        return np.zeros(units), np.ones(units)
    there = (found.finite[0] > 0).numpy()
    ends = (found.min[0].double().numpy(), found.max[0].double().numpy())
    # as numpy's histogram of nothing
    return np.where(there, ends[0], 0.0), np.where(there, ends[1], 1.0)


class Counter:
    """Counts the values of matrices [rows, units] between the edges of each unit."""

    def __init__(self, edges: np.ndarray, *, even: bool) -> None:
        self._edges = torch.from_numpy(np.ascontiguousarray(edges))
        # a width that has no inverse in float64 has no place to be worked out
        with np.errstate(divide="ignore"):
            self._even = even and bool(np.isfinite(1 / np.diff(edges[:, [0, -1]])).all())
        units, ends = edges.shape
        self._bins = ends - 1
        # a place below the bins, one above, and three for what is not finite
        self._found = torch.zeros(units * (self._bins + 5), dtype=torch.int64)
        self._begin = torch.arange(units) * (self._bins + 5)

    def add(self, matrix: torch.Tensor) -> Counter:
        """Take values in."""
        for tile in tiles(matrix):
            places = (self._places(tile.cpu().to(torch.float64)) + self._begin).reshape(-1)
            one = torch.ones(1, dtype=torch.int64)
            self._found.scatter_add_(0, places, one.expand(len(places)))
        return self

    def merge(self, other: Counter) -> None:
        """Take in what another one has counted."""
        self._found += other._found

    def like(self) -> Counter:
        """Return one that has counted nothing."""
        return Counter(self._edges.numpy(), even=self._even)

    def result(self, shape: tuple[int, ...]) -> Histogram:
        """Return the counts."""
        found = self._found.reshape(*shape, self._bins + 5)
        extra = {name: found[..., self._bins + i] for i, name in enumerate(_EXTRA)}
        edges = self._edges.reshape(*shape, self._bins + 1)
        return Histogram(counts=found[..., : self._bins].clone(), edges=edges, **extra)

    def _places(self, values: torch.Tensor) -> torch.Tensor:
        low, high = self._edges[:, 0], self._edges[:, -1]
        inside = (values >= low) & (values <= high)
        clean = values.where(inside, low)
        places = self._guessed(clean) if self._even else self._searched(clean)
        if bool(inside.all()):
            return places
        kinds = [values < low, values > high, values.isnan(), values == torch.inf]
        kinds.append(values == -torch.inf)
        for kind, there in enumerate(kinds):
            places = places.masked_fill(there, self._bins + kind)
        return places

    def _guessed(self, values: torch.Tensor) -> torch.Tensor:
        """Return bins of even width: worked out, then moved to where the edges say they are."""
        low, high = self._edges[:, 0], self._edges[:, -1]
        guess: torch.Tensor = (
            ((values - low) * (self._bins / (high - low))).long().clamp_(0, self._bins - 1)
        )
        ends = self._bins + 1
        first = torch.arange(len(low)) * ends + guess
        flat = self._edges.reshape(-1)
        guess -= (values < flat[first]).long()
        up = (values >= flat[first + 1]) & (guess < self._bins - 1)
        return guess.add(up.long())

    def _searched(self, values: torch.Tensor) -> torch.Tensor:
        after: torch.Tensor = torch.searchsorted(self._edges, values.T.contiguous(), right=True)
        places: torch.Tensor = after.T.sub(1)
        return places.clamp_(0, self._bins - 1)


_EXTRA = ("below", "above", "nans", "pos_infs", "neg_infs")


def counted(
    parts: Iterable[Counter], total: Counter, shape: tuple[int, ...], device: torch.device
) -> Histogram:
    """Return the histogram of what some counters have counted."""
    for part in parts:
        total.merge(part)
    found = total.result(shape)
    if device.type == "cpu":
        return found
    return Histogram(**{name: getattr(found, name).to(device) for name in Histogram.__slots__})
