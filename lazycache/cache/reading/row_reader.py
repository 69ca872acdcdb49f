"""What a lazy tensor asks of its reader, and readers that work rows out instead of storing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from lazycache.cache.files.ragged_rows import Block, Wanted
from lazycache.cache.reading.costs import Tally
from lazycache.cache.selecting import units as unit_selection
from lazycache.cache.selecting.plan import Rows, blocks
from lazycache.cache.selecting.units import Units
from lazycache.errors import SelectionError
from lazycache.types import SiteSpec


class RowReader(Protocol):
    """Rows by number: of stored sites (`Reader`), of memory, joined or computed ones."""

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return for each row whether there is one: bool[n]. Reads nothing."""
        ...

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the runs of rows that there are."""
        ...

    def take(
        self, site: str, rows: np.ndarray, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return rows in the order given: [n, *units], the caller's own."""
        ...

    def slice(
        self, site: str, start: int, stop: int, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return rows `start` to `stop`: [n, *units], the caller's own."""
        ...

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return rows: [n, *units], the caller's own."""
        ...

    def scan(
        self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield rows in order, in blocks of at most `block_rows`, to be read and dropped."""
        ...

    def cost(
        self,
        site: str,
        rows: Rows,
        *,
        units: tuple[Any, ...] | Units = (),
        block_rows: int | None = None,
    ) -> Tally:
        """Return what `read` would read, or with `block_rows` what `scan` would. Reads nothing."""
        ...

    def widths(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return the width of each row of a ragged site: int64[n]."""
        ...

    def ragged(self, site: str, wanted: Wanted) -> Iterator[Block]:
        """Yield values of rows of a ragged site, in blocks to be copied and dropped."""
        ...


class WorkedOut:
    """A reader whose `read` says it all; of rows of one shape."""

    spec: SiteSpec

    if TYPE_CHECKING:

        def read(
            self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()
        ) -> torch.Tensor:
            """Return rows: [n, *units], the caller's own."""
            ...

    def take(
        self, site: str, rows: np.ndarray, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return rows in the order given: [n, *units], the caller's own."""
        return self.read(site, np.asarray(rows, dtype=np.int64), units=units)

    def slice(
        self, site: str, start: int, stop: int, *, units: tuple[Any, ...] | Units = ()
    ) -> torch.Tensor:
        """Return rows `start` to `stop`: [n, *units], the caller's own."""
        return self.read(site, range(start, max(start, stop)), units=units)

    def scan(
        self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = (), block_rows: int
    ) -> Iterator[torch.Tensor]:
        """Yield rows in order, in blocks of at most `block_rows`, to be read and dropped."""
        for start, stop in blocks(len(rows), size=block_rows):
            yield self.read(site, rows[start:stop], units=units)

    def cost(
        self,
        site: str,  # noqa: ARG002  # one site
        rows: Rows,  # noqa: ARG002  # of what is in memory nothing is read
        *,
        units: tuple[Any, ...] | Units = (),  # noqa: ARG002
        block_rows: int | None = None,  # noqa: ARG002
    ) -> Tally:
        """Return what `read` or `scan` would read: nothing, of what is in memory."""
        return Tally()

    def widths(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # refused
        """Refuse: rows have one shape."""
        raise self._not_ragged(site)

    def ragged(self, site: str, wanted: Wanted) -> Iterator[Block]:  # noqa: ARG002  # refused
        """Refuse: rows have one shape."""
        raise self._not_ragged(site)

    def _units(self, units: tuple[Any, ...] | Units) -> Units:
        if isinstance(units, Units):
            return units
        return unit_selection.select(self.spec.shape, units)

    @staticmethod
    def _not_ragged(site: str) -> SelectionError:
        return SelectionError(f"rows of {site!r} have one shape: they have no widths.")
