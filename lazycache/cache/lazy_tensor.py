"""One site as a tensor that is read when it is used, and only where it is used.

Indexing composes a selection and reads nothing. `load`, `numpy`, iteration over `chunks` and the
aggregates read exactly the rows and units that are selected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lazycache.cache import torch_functions
from lazycache.cache.aggregate import Dim, aggregate, count_rows
from lazycache.cache.examples import ExampleMap
from lazycache.cache.gather import empty
from lazycache.cache.indexing import consumed, expand, index_array, is_array, normalise
from lazycache.cache.loading import load, nested, padded, to_numpy, within_budget
from lazycache.cache.plan import Rows, blocks
from lazycache.cache.reader import Reader, as_array
from lazycache.cache.selection import Dense, Grid, Lead
from lazycache.cache.units import Units, of_map, unit_map
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.types import EXAMPLES, SiteSpec

CHUNK_BYTES = 64 << 20
"""Default size of the pieces of `LazyTensor.chunks`."""

CONVERTED_ROWS = 4096
"""Rows that are held in both dtypes at a time while values are converted."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where a lazy tensor reads: one site of one snapshot."""

    reader: Reader
    """Reads its rows."""
    spec: SiteSpec
    """What a row is."""
    url: str
    """Where the dataset is, for people."""
    examples: Callable[[], ExampleMap]
    """Gives its examples; built when first asked for."""
    budget_bytes: int
    """What an implicit load (a torch function, `np.asarray`) may take."""

    def everything(self) -> Lead:
        """Return all rows: examples by positions, or one row per example."""
        examples = self.examples()
        if self.spec.table == EXAMPLES:
            return Dense(examples.absolute(range(examples.total)))
        return Grid(examples, range(len(examples)))


class LazyTensor:
    """A tensor of a dataset, not in memory: (examples, positions, *row), or (examples, *row).

    Index it as a torch tensor: integers, slices, `...`, index arrays, masks over the leading
    dimensions. Examples may differ in length (`lengths`); a position then counts inside each
    example, as Python counts: `x[:, -1]` is the last kept row of each, and `shape[1]` is the
    longest. The first dimension is the example in order of its id; `x.rows` are all rows in storage
    order. Rows that were not captured are missing, never zero: their examples have length 0.

    Views are new values and cost no reading. A lazy tensor never changes; it may be shared between
    threads.
    """

    __slots__ = ("_device", "_dtype", "_lead", "_source", "_units")

    def __init__(
        self,
        source: Source,
        *,
        lead: Lead | None = None,
        units: np.ndarray | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._source = source
        self._lead = lead
        self._units = units
        self._dtype = dtype
        self._device = device

    @property
    def site(self) -> str:
        """Name of the site."""
        return self._source.spec.name

    @property
    def lead(self) -> Lead:
        """What is selected of examples and positions."""
        if self._lead is None:
            self._lead = self._source.everything()
        return self._lead

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what is selected of each row."""
        return self._source.spec.shape if self._units is None else self._units.shape

    @property
    def shape(self) -> torch.Size:
        """Shape; positions are those of the longest example."""
        return torch.Size((*self.lead.shape, *self.row_shape))

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        return self.lead_ndim + len(self.row_shape)

    @property
    def lead_ndim(self) -> int:
        """How many of them are examples, positions, or rows."""
        if self._lead is None:
            return 1 if self._source.spec.table == EXAMPLES else 2
        return len(self._lead.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of what a load returns."""
        return self._dtype or by_name(self._source.spec.dtype).torch

    @property
    def device(self) -> torch.device:
        """Device of what a load returns."""
        return self._device or torch.device("cpu")

    @property
    def budget_bytes(self) -> int:
        """What an implicit load (a torch function, `np.asarray`) may take."""
        return self._source.budget_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of the selected values, padding not counted."""
        return self.lead.count * math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each example: int64[examples].

        Raises:
            SelectionError: there is no dimension of positions.
        """
        lead = self.lead
        if isinstance(lead, Grid):
            return lead.lengths().copy()
        if len(lead.shape) <= 1:
            raise SelectionError(f"{self!r} has no positions, so no lengths.")
        return np.full(lead.shape[0], lead.shape[1], dtype=np.int64)

    @property
    def is_ragged(self) -> bool:
        """Whether examples differ in length."""
        return isinstance(self.lead, Grid) and self.lead.is_ragged()

    @property
    def covered(self) -> np.ndarray:
        """Whether the site has the entries of the first dimension: bool[n]."""
        lead = self.lead
        if isinstance(lead, Grid):
            covered: np.ndarray = lead.lengths() > 0
            return covered
        rows = as_array(lead.rows)
        return self._source.reader.covered(self.site, rows)

    @property
    def rows(self) -> LazyTensor:
        """All selected rows in one dimension: (rows, *row).

        Of a whole site in storage order, where consecutive rows are read without a copy. Rows that
        were selected one by one stay in their order.
        """
        lead = self.lead
        rows = lead.stored() if isinstance(lead, Grid) else lead.flat()
        if isinstance(lead, Dense):
            rows = self._present(rows)
        return self._view(lead=Dense(rows))

    def _present(self, rows: Rows) -> Rows:
        # only of the examples table a selection can hold rows that the site does not have
        if self._source.spec.table != EXAMPLES:
            return rows
        there = self._source.reader.covered(self.site, as_array(rows))
        return rows if there.all() else as_array(rows)[there]

    def __getitem__(self, index: Any) -> LazyTensor:
        parts = expand(normalise(index), self.ndim)
        leading, units = _split(parts, self.lead_ndim)
        if any(map(is_array, leading)) and any(map(is_array, units)):
            raise SelectionError(
                "index arrays for rows and for units at once would be paired up: "
                "index in two steps, x[rows][..., units]."
            )
        lead = self.lead.index(leading) if _selects(leading) else self.lead
        chosen = self._units
        if _selects(units):
            known = unit_map(self._source.spec.shape) if chosen is None else chosen
            chosen = index_array(known, units)
        return self._view(lead=lead, units=chosen)

    def _view(self, *, lead: Lead, units: np.ndarray | None = None) -> LazyTensor:
        kept = self._units if units is None else units
        return LazyTensor(
            self._source, lead=lead, units=kept, dtype=self._dtype, device=self._device
        )

    def __len__(self) -> int:
        if not self.ndim:
            raise SelectionError("a single value has no length: .load().item() is the number.")
        return self.shape[0]

    def __iter__(self) -> Iterator[LazyTensor]:
        """Yield the entries of the first dimension, lazy themselves: examples, or rows."""
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise SelectionError("a lazy tensor is neither true nor false: load it, or use len().")

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        if self.is_ragged:
            shape = f"{self.shape[0]}, ≤{shape.split(', ', 1)[1]}"
        dtype = str(self.dtype).removeprefix("torch.")
        where = f", device={self.device}" if self._device else ""
        return (
            f"LazyTensor({self.site}: shape=({shape}), dtype={dtype}{where}, "
            f"{self.nbytes:,} bytes, {self._source.url})"
        )

    def to(self, *args: torch.dtype | torch.device | str) -> LazyTensor:
        """Return it with another dtype, device, or both; converted when it is loaded.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].to(torch.float64)[0, 0].load()
            tensor([0., 1.], dtype=torch.float64)
        """
        dtype, device = self._dtype, self._device
        for arg in args:
            if isinstance(arg, torch.dtype):
                dtype = arg
            else:
                device = torch.device(arg)
        return LazyTensor(
            self._source, lead=self._lead, units=self._units, dtype=dtype, device=device
        )

    def load(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Read the selection into a tensor.

        Cost: nothing is copied where the rows lie in one chunk of a local dataset, in the stored
        dtype: a private, writable view of the file; in-place changes by torch reach neither the
        file nor later reads. (What is written past torch, through `.numpy()` or `.data`, never
        reaches the file, but later zero-copy loads of the same rows see it; and a view keeps its
        whole file mapped: `.clone()` it first.) Otherwise one allocation and one copy of what is
        selected.

        Raises:
            SelectionError: examples differ in length, or the site does not have some of the rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][1, :2].load()  # example 1, its first two rows
            tensor([[4., 5.],
                    [6., 7.]])
        """
        return load(self if device is None else self.to(device))

    def padded(self, value: float = 0) -> torch.Tensor:
        """Read the selection, shorter examples filled up with `value` at their end.

        Cost: the padded tensor, and the values of a block of examples at a time.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][:, :, 0].padded(-1)
            tensor([[ 0.,  2., -1.],
                    [ 4.,  6.,  8.],
                    [10., -1., -1.]])
        """
        return padded(self, value)

    def nested(self) -> torch.Tensor:
        """Read the selection into a nested tensor of torch (jagged layout): one copy, no padding.

        Example:
            >>> from lazycache.samples import small_cache
            >>> [len(part) for part in small_cache()["resid_out_0"].nested().unbind()]
            [2, 3, 1]
        """
        return nested(self)

    def numpy(self) -> np.ndarray:
        """Read the selection into an array; bfloat16 and float8 as float32, which is exact.

        Cost: as `load`; a zero-copy view of the file is read-only.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][2].numpy()
            array([[10., 11.]], dtype=float32)
        """
        return to_numpy(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        within_budget([self], what="an array of it")
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"{array.dtype} to {dtype} needs a copy.")
            return array.astype(dtype)
        return array.copy() if copy else array

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer aggregates in a stream; load for other functions, within the budget."""
        return torch_functions.call(cls, func, args, kwargs or {})

    def chunks(self, bytes: int = CHUNK_BYTES) -> Iterator[torch.Tensor]:  # noqa: A002  # a unit
        """Yield the rows (`x.rows`) in tensors of at most `bytes` bytes, at least a row each.

        Cost: one such tensor at a time; as `load` for each.

        Example:
            >>> from lazycache.samples import small_cache
            >>> [len(chunk) for chunk in small_cache()["resid_out_0"].chunks(bytes=32)]
            [4, 2]
        """
        rows = self.rows.lead.flat()
        row_bytes = max(1, math.prod(self.row_shape) * self.dtype.itemsize)
        for start, stop in blocks(len(rows), size=bytes // row_bytes):
            yield self.values_of(rows[start:stop])

    def values_of(self, rows: Rows) -> torch.Tensor:
        """Read absolute rows with this tensor's units, dtype and device: [n, *row_shape]."""
        stored = by_name(self._source.spec.dtype).torch
        if self.dtype == stored:
            values = self._source.reader.read(self.site, rows, units=self._chosen())
        else:
            values = empty((len(rows), *self.row_shape), self.dtype)
            done = 0
            for block in self._source.reader.scan(
                self.site, rows, units=self._chosen(), block_rows=CONVERTED_ROWS
            ):
                values[done : done + len(block)].copy_(block)
                done += len(block)
        return values if self._device is None else values.to(self._device)

    def scan(self, rows: Rows, *, block_rows: int) -> Iterator[torch.Tensor]:
        """Yield rows in blocks that must be read and dropped: they may be the file itself."""
        reader = self._source.reader
        for block in reader.scan(self.site, rows, units=self._chosen(), block_rows=block_rows):
            yield block.to(device=self.device, dtype=self.dtype)

    def _chosen(self) -> Units:
        return of_map(self._source.spec.shape, self._units)

    def mean(self, dim: Dim = None) -> torch.Tensor:
        """Reduce dimensions: `"rows"` for all examples and positions, numbers, or None for all.

        `dim=1` gives one result per example, whatever their lengths. Results of mean, var, std and
        norm are float64, of sum float64 (int64 for integers and bools), of min and max the dtype
        of the values. Rows that were not captured do not count. NaN and infinity go through as in
        torch, and so does the mean of nothing (nan).

        Cost: reads what is selected once, in blocks of some MB; memory does not grow with rows.

        Raises:
            SelectionError: examples differ in length and the result would too.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].mean("rows")
            tensor([5., 6.], dtype=torch.float64)
        """
        return aggregate(self, "mean", dim)

    def sum(self, dim: Dim = None) -> torch.Tensor:
        """Return the sum over `dim`; see `mean`."""
        return aggregate(self, "sum", dim)

    def min(self, dim: Dim = None) -> torch.Tensor:
        """Return the smallest value over `dim` (no index, unlike torch); see `mean`."""
        return aggregate(self, "min", dim)

    def max(self, dim: Dim = None) -> torch.Tensor:
        """Return the largest value over `dim` (no index, unlike torch); see `mean`."""
        return aggregate(self, "max", dim)

    def var(self, dim: Dim = None, *, correction: float = 1) -> torch.Tensor:
        """Return the variance over `dim`, divided by the count minus `correction`; see `mean`."""
        return aggregate(self, "var", dim, correction=correction)

    def std(self, dim: Dim = None, *, correction: float = 1) -> torch.Tensor:
        """Return the square root of `var`; see `mean`."""
        return aggregate(self, "std", dim, correction=correction)

    def norm(self, dim: Dim = None) -> torch.Tensor:
        """Return the Euclidean norm over `dim`; see `mean`."""
        return aggregate(self, "norm", dim)

    def count(self, dim: Dim = "rows") -> int | torch.Tensor:
        """Return how many rows there are (`dim=1`: of each example). Reads nothing.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].count()
            6
        """
        return count_rows(self, dim)


def _selects(parts: tuple[Any, ...]) -> bool:
    return any(is_array(part) or part != slice(None) for part in parts)


def _split(parts: tuple[Any, ...], lead: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Cut an index that names every dimension into that of rows and that of units."""
    used = at = 0
    while used < lead:
        used += consumed(parts[at])
        at += 1
    if used > lead:
        raise SelectionError(
            "a mask over rows and units at once: load first, x.load()[mask], "
            "or mask rows and units in two steps."
        )
    return parts[:at], parts[at:]
