"""A tensor in memory with the surface of what is read, so that it may be joined with what is."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.computing.operands import WORDS
from lazycache.cache.reading.row_reader import WorkedOut
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.examples import one_row_each
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.selection import Dense
from lazycache.cache.selecting.units import Units, all_units, places_of
from lazycache.codec.dtypes import of_torch
from lazycache.types import EXAMPLES, SiteSpec

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

BUDGET_BYTES = 4 << 30
"""What an implicit load may take, where nobody says."""


class MemoryReader(WorkedOut):
    """Rows of a tensor, which is not copied: what is read is."""

    def __init__(self, rows: torch.Tensor, spec: SiteSpec) -> None:
        self.rows = rows
        """[n, *row]."""
        self.spec = spec
        """What a row is."""

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:  # noqa: ARG002  # one site
        """Return for each row whether there is one: bool[n]."""
        there: np.ndarray = (rows >= 0) & (rows < len(self.rows))
        return there

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002  # one site
        """Return the first row and the row after the last."""
        return np.zeros(1, dtype=np.int64), np.array([len(self.rows)], dtype=np.int64)

    def read(self, site: str, rows: Rows, *, units: tuple[Any, ...] | Units = ()) -> torch.Tensor:
        """Return a copy of rows: [n, *units]."""
        del site
        chosen, tensor = self._units(units), self.rows
        # as words: torch has no indexed copy for some dtypes
        words = tensor.view(WORDS[tensor.dtype.itemsize])
        if isinstance(rows, range) and rows.step == 1:
            words = words[rows.start : max(rows.start, rows.stop)]
        else:
            words = words[torch.from_numpy(as_array(rows)).to(words.device)]
        if chosen is not all_units(self.spec.shape):
            places = torch.from_numpy(places_of(chosen)).to(words.device)
            words = words.reshape(len(rows), math.prod(self.spec.shape))[:, places]
        return words.clone().reshape(len(rows), *chosen.shape).view(tensor.dtype)


def from_tensor(
    tensor: torch.Tensor,
    *,
    name: str = "tensor",
    lead_ndim: int = 1,
    url: str = "memory",
    budget_bytes: int = BUDGET_BYTES,
) -> LazyTensor:
    """Return a tensor of memory as a lazy tensor, whose first `lead_ndim` dimensions are rows.

    Cost: nothing is copied. What is written to the tensor is seen through the result.

    Raises:
        UnsupportedDtypeError: a dtype that datasets do not hold.

    Example:
        >>> from_tensor(torch.arange(6).reshape(3, 2))[1:, 0].load()
        tensor([2, 4])
    """
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

    lead, row = tuple(tensor.shape[:lead_ndim]), tuple(tensor.shape[lead_ndim:])
    dtype, count = of_torch(tensor.dtype), math.prod(lead)
    spec = SiteSpec(name, EXAMPLES, dtype.name, row, math.prod(row) * dtype.itemsize)
    reader = MemoryReader(tensor.detach().reshape(count, *row), spec)
    examples = partial(one_row_each, count)
    source = Source(reader, spec, url, examples, budget_bytes)
    numbers = range(count) if lead_ndim == 1 else np.arange(count).reshape(lead)
    device = None if tensor.device.type == "cpu" else tensor.device
    return LazyTensor(source, lead=Dense(numbers), device=device)
