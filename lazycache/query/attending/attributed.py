"""What each part of a model adds to a direction, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lazycache.faces.bars import signed_table
from lazycache.faces.html import card, facts

if TYPE_CHECKING:
    import pyarrow as pa

REMAINDER = "remainder"
"""Name of what no stored part explains."""

SHOWN = 20
"""Parts that a text shows."""


class Attribution:
    """What each part of a model adds to a direction; the parts, remainder included, sum to `total`.

    It holds what it says: it reads nothing, and stays when the cache is closed.
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Sequence[float],
        *,
        total: float,
        site: str,
        example: int,
        position: int | None,
    ) -> None:
        self.names = (*names, REMAINDER)
        """The parts in the order in which they were added, `remainder` last."""
        left = exact_sum([total, *(-value for value in values)])
        self.values = torch.tensor([*values, left], dtype=torch.float64)
        """float64[parts]: the product of each with the direction."""
        self.total = total
        """The product of the stream with the direction."""
        self.site = site
        """The stream."""
        self.example = example
        """Id of the example."""
        self.position = position
        """Position of the row; None of a stream that was pooled."""

    @property
    def remainder(self) -> float:
        """What the stored parts leave: what was not stored, biases and rounding."""
        return float(self.values[-1])

    def arrow(self) -> pa.Table:
        """Return a table: component, value, in the order of `names`."""
        import pyarrow as pa  # loaded when it is used: questions do without

        return pa.table({"component": list(self.names), "value": pa.array(self.values.tolist())})

    def df(self) -> Any:
        """Return `arrow()` as a pandas DataFrame (needs pandas)."""
        return self.arrow().to_pandas()

    def __repr__(self) -> str:
        where = "" if self.position is None else f", position {self.position}"
        head = f"Attribution({self.site}, example {self.example}{where}: {self.total:.6g})"
        return "\n".join([head, *self._lines()])

    def _repr_html_(self) -> str:
        """Show the largest parts as bars in a notebook. All text is escaped."""
        pairs = self._sorted()
        shown = signed_table(("component", "value"), pairs[:SHOWN], more=len(pairs) - SHOWN)
        places = [("example", self.example), ("position", self.position), ("total", self.total)]
        return card(self.site, facts(places), shown, kind="Attribution")

    def _sorted(self) -> list[tuple[str, float]]:
        """Return the parts by size, whatever their sign; of equal ones the earlier first."""
        pairs = list(zip(self.names, self.values.tolist(), strict=True))
        # NaN is no size: it comes last
        pairs.sort(key=lambda one: -math.inf if math.isnan(one[1]) else abs(one[1]), reverse=True)
        return pairs

    def _lines(self) -> Iterator[str]:
        """Say the largest parts."""
        pairs = self._sorted()
        width = max(len(name) for name, _ in pairs[:SHOWN])
        for name, value in pairs[:SHOWN]:
            yield f"  {name.ljust(width)}  {value: .6g}"
        if len(pairs) > SHOWN:
            yield f"  ... and {len(pairs) - SHOWN:,} smaller"


def exact_sum(values: Sequence[float]) -> float:
    """Return the sum without rounding on the way; of infinities as floats have it."""
    try:
        return math.fsum(values)
    except (ValueError, OverflowError):  # infinities of both signs, sums beyond float64
        return float(sum(values))
