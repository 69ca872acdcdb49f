"""The statistics of tensors that are joined: those of their parts, at the rows they have there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.aggregates.covering import statistics_of, unit_numbers
from lazycache.cache.joined.joined_rows import JoinedRows
from lazycache.cache.reading.known import Known
from lazycache.cache.reading.site_statistics import Extreme, SiteStatistics, ZoneRows

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True, eq=False)
class PartStatistics:
    """What is known of one part of a joined tensor."""

    found: SiteStatistics
    """What is known of its site."""
    units: torch.Tensor | None
    """int64[units]: the units that it selects; None for all."""
    shift: int
    """What is added to a row of the site to get its row in the joined tensor."""
    blocks: np.ndarray
    """int64[n]: blocks of the site all of whose rows are in the joined tensor."""
    tops: np.ndarray
    """int64[n]: parts of the site with known greatest values, likewise."""

    def chosen(self, units: torch.Tensor | None) -> torch.Tensor | None:
        """Return units of the joined tensor as those of the site."""
        if units is None or self.units is None:
            return self.units if units is None else units
        return self.units[units]

    def theirs(self, mine: np.ndarray) -> np.ndarray:
        """Return some of `blocks`, bool[n], as bool[all blocks of the site]."""
        theirs = np.zeros(len(self.found.starts), dtype=np.bool_)
        theirs[self.blocks[mine]] = True
        return theirs


class JoinedStatistics:
    """Blocks of all parts, in order. As `SiteStatistics`."""

    def __init__(self, parts: Sequence[PartStatistics]) -> None:
        self._parts = parts
        blocks = [(p.found.starts[p.blocks], p.found.stops[p.blocks], p.shift) for p in parts]
        self.starts = np.concatenate([starts + shift for starts, _, shift in blocks])
        """As `SiteStatistics.starts`."""
        self.stops = np.concatenate([stops + shift for _, stops, shift in blocks])
        """As `SiteStatistics.stops`."""
        self.finite = np.concatenate([part.found.finite[part.blocks] for part in parts])
        """As `SiteStatistics.finite`."""
        self._ends = np.cumsum([len(part.blocks) for part in parts])
        self._tops = [(part, int(i)) for part in parts for i in part.tops]
        firsts, lasts = (
            np.concatenate([part.found.tops[end][part.tops] + part.shift for part in parts])
            for end in (0, 1)
        )
        self.tops = firsts, lasts
        """As `SiteStatistics.tops`."""

    def known(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[Known]:
        """Yield the numbers of blocks, part by part; as `SiteStatistics.known`."""
        for part, mine in zip(self._parts, np.split(chosen, self._ends[:-1]), strict=True):
            if mine.any():
                yield from part.found.known(part.theirs(mine), part.chosen(units))

    def extremes(self, which: Extreme, chosen: np.ndarray, units: torch.Tensor) -> torch.Tensor:
        """Return a number of blocks, part by part; as `SiteStatistics.extremes`."""
        found = [
            part.found.extremes(which, part.theirs(mine), _some(part.chosen(units)))
            for part, mine in zip(self._parts, np.split(chosen, self._ends[:-1]), strict=True)
        ]
        return torch.cat(found)

    def peaks(self, parts: Sequence[int], units: torch.Tensor) -> torch.Tensor:
        """Return the greatest of parts; as `SiteStatistics.peaks`."""
        # parts are numbered tensor by tensor
        return torch.cat(
            [
                one.found.peaks([number for _, number in mine], _some(one.chosen(units)))
                for one, mine in groupby((self._tops[part] for part in parts), itemgetter(0))
            ]
        )

    def greatest(
        self, parts: Sequence[int], units: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield greatest values and their rows; as `SiteStatistics.greatest`."""
        # parts are numbered tensor by tensor
        for one, mine in groupby((self._tops[part] for part in parts), itemgetter(0)):
            numbers = [number for _, number in mine]
            for values, rows in one.found.greatest(numbers, one.chosen(units)):
                yield values, np.where(rows >= 0, rows + one.shift, rows)

    def zones(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[ZoneRows]:
        """Yield zones, part by part; as `SiteStatistics.zones`."""
        for part, mine in zip(self._parts, np.split(chosen, self._ends[:-1]), strict=True):
            for one in part.found.zones(part.theirs(mine), part.chosen(units)):
                starts, stops = one.starts + part.shift, one.stops + part.shift
                yield replace(one, starts=starts, stops=stops)


def _some(units: torch.Tensor | None) -> torch.Tensor:
    assert units is not None, "of some there are some"
    return units


def of_parts(tensors: Sequence[LazyTensor], rows: JoinedRows) -> JoinedStatistics | None:
    """Return what is known of joined tensors; None if there is nothing. Reads nothing."""
    parts = []
    for number, x in enumerate(tensors):
        part, found = rows.parts[number], statistics_of(x)
        # rows that are not moved all alike are no blocks here
        if found is None or part.rows is not None:
            continue
        low, high = part.first, part.first + part.extent
        inside = (found.starts >= low) & (found.stops <= high)
        firsts, lasts = found.tops
        shift = int(rows.starts[number]) - part.first
        tops = np.flatnonzero((firsts >= low) & (lasts <= high))
        parts.append(PartStatistics(found, unit_numbers(x), shift, np.flatnonzero(inside), tops))
    return JoinedStatistics(parts) if parts else None
