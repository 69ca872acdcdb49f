"""A reader that reads nothing: it counts what another would read, and gives made-up values."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch

from lazycache.cache.reading.costs import Tally
from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.reading.site_reader import SiteReader
from lazycache.cache.selecting import units as unit_selection
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.units import Units
from lazycache.codec.dtypes import by_name
from lazycache.errors import QueryError

_SPREAD, _STEP = 1_000_003, 7_919


class DryReader(WorkedOut):
    """Reads of a query that is run to be counted. Thread-safe."""

    def __init__(self, reader: SiteReader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._nothing: dict[torch.dtype, torch.Tensor] = {}
        self.looked_up: set[str] = set()
        """Sites whose statistics were asked for: their best rows may be known."""
        self.reads: dict[tuple[str, tuple[Any, ...]], Tally] = {}
        """What was asked for, by site and index of the row's own dimensions."""

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return for each row whether the site has it: bool[n]."""
        return self._reader.covered(site, rows)

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the runs of rows that the site has."""
        return self._reader.covered_spans(site)

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Count rows and return values that no site has: [n, *units].

        A single unit differs from row to row, so that its order is one by chance; whole rows are
        ones.
        """
        spec = self._reader.spec(site)
        chosen = units if isinstance(units, Units) else unit_selection.select(spec.shape, units)
        found = self._reader.cost(site, rows, units=chosen)
        what = () if isinstance(units, Units) else units
        with self._lock:
            self.reads[site, what] = self.reads.get((site, what), Tally()) + found
        dtype = by_name(spec.dtype).torch
        if chosen.shape:
            return self._ones(len(rows) * chosen.count, dtype).view(len(rows), *chosen.shape)
        return torch.from_numpy(as_array(rows) * _STEP % _SPREAD / _SPREAD).to(dtype)

    def statistics(self, site: str) -> None:
        """Note that they are asked for: there are none here, so that nothing is read."""
        with self._lock:
            self.looked_up.add(site)

    def _ones(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return ones, which nobody writes to: the same memory for all vectors of a query."""
        with self._lock:
            known = self._nothing.get(dtype)
            if known is None or len(known) < count:
                known = self._nothing[dtype] = torch.ones(count, dtype=dtype)
        return known[:count]

    def widths(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # refused
        """Refuse: the widths of rows are in the shards."""
        raise _ragged(site)

    def ragged(self, site: str, wanted: Any) -> Any:  # noqa: ARG002  # refused
        """Refuse; as `widths`."""
        raise _ragged(site)


def _ragged(site: str) -> QueryError:
    return QueryError(
        f"what a query reads of {site!r} is not told before: rows of attention patterns differ in "
        f'width, which only the shards say. cost("{site}") is an upper bound.'
    )
