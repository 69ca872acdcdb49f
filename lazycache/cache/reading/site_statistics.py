"""What is known of the rows of a site without reading them: what questions ask of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from lazycache.cache.reading.known import Known

Extreme = Literal["min", "max"]
"""The least or the greatest finite value."""


class SiteStatistics(Protocol):
    """Numbers of blocks of rows, of zones of blocks, and the greatest values of parts."""

    @property
    def starts(self) -> np.ndarray:
        """int64[blocks]: first absolute row of each block, ascending."""
        ...

    @property
    def stops(self) -> np.ndarray:
        """int64[blocks]: the row after the last."""
        ...

    @property
    def tops(self) -> tuple[np.ndarray, np.ndarray]:
        """First rows of the parts whose greatest values are known, and the rows after their last.

        A part is some consecutive blocks.
        """
        ...

    def known(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[Known]:
        """Yield the numbers of the blocks `chosen`, bool[blocks], of some units."""
        ...

    def extremes(self, which: Extreme, chosen: np.ndarray, units: torch.Tensor) -> torch.Tensor:
        """Return one of the numbers of the blocks `chosen`: [n, units] in the site's dtype.

        NaN where there is no finite value.
        """
        ...

    @property
    def finite(self) -> np.ndarray:
        """bool[blocks]: of which it is known without reading that all values are finite."""
        ...

    def peaks(self, parts: Sequence[int], units: torch.Tensor) -> torch.Tensor:
        """Return the greatest finite value of each part: [parts, units], NaN where there is none.

        Cheaper than `greatest` where all parts were asked before, about whatever unit.
        """
        ...

    def greatest(
        self, parts: Sequence[int], units: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        """Yield of each part the greatest finite values, and their absolute rows or -1.

        [ranks, units] each, descending; of equal values the first rows.
        """
        ...

    def zones(self, chosen: np.ndarray, units: torch.Tensor | None) -> Iterator[ZoneRows]:
        """Yield the zones that the blocks `chosen`, bool[blocks], have rows of.

        Of blocks without zones there are none; of others they have all rows.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ZoneRows:
    """Some zones, in order, and which rows they are."""

    starts: np.ndarray
    """int64[zones]: first absolute rows."""
    stops: np.ndarray
    """int64[zones]: the rows after the last."""
    min: torch.Tensor
    """[zones, units] in the site's dtype: the least finite value; NaN where there is none."""
    max: torch.Tensor
    """[zones, units] in the site's dtype: the greatest, likewise."""
