"""One site as a tensor that is read when it is used, and only where it is used.

Indexing composes a selection and reads nothing. `load`, `numpy`, iteration over `chunks` and the
aggregates read exactly the rows and units that are selected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import torch

from lazycache.cache.calls import one_call
from lazycache.cache.gather import empty
from lazycache.cache.indexing import consumed, expand, index_array, is_array, normalise
from lazycache.cache.loading import load, nested, padded, to_numpy
from lazycache.cache.operators import Operators
from lazycache.cache.plan import Rows, as_array, blocks
from lazycache.cache.reductions import Reductions
from lazycache.cache.row_queries import RowQueries
from lazycache.cache.selection import Dense, Grid, Lead
from lazycache.cache.source import Source, not_pickled, targets
from lazycache.cache.units import Units, of_map, unit_map
from lazycache.codec.dtypes import by_name
from lazycache.errors import SelectionError
from lazycache.types import EXAMPLES

CHUNK_BYTES = 64 << 20
"""Default size of the pieces of `LazyTensor.chunks`."""

CONVERTED_ROWS = 4096
"""Rows that are held in both dtypes at a time while values are converted."""


class LazyTensor(Reductions, Operators, RowQueries):
    """A tensor of a dataset, not in memory: (examples, positions, *row), or (examples, *row).

    Index it as a torch tensor: integers, slices, `...`, index arrays, masks over the leading
    dimensions. Examples may differ in length (`lengths`); a position then counts inside each
    example, as Python counts: `x[:, -1]` is the last kept row of each, and `shape[1]` is the
    longest. The first dimension is the example in order of its id; `x.rows` are all rows in storage
    order. Rows that were not captured are missing, never zero: their examples have length 0.

    Operators (`x + 1`, `x == 0`, `-x`) and torch functions load what is selected, within a budget,
    and give tensors; as a dictionary key a lazy tensor is itself.

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
        """What is selected of examples and positions. For this package."""
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
        """How many of them are examples, positions, or rows. For this package."""
        if self._lead is None:
            return 1 if self._source.spec.table == EXAMPLES else 2
        return self._lead.ndim

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
        """What an implicit load (a torch function, `np.asarray`) may take. For this package."""
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

    def call(self, number: int) -> LazyTensor:
        """Return the rows of one call of a module that a forward pass calls several times.

        Of a site of a table of calls, whose examples have the rows of their first call, then those
        of the second and so on: (examples, positions, *row) of call `number`, counted from 0, or
        from the last call of each example if it is negative. Examples with fewer calls have no rows
        in it. Select examples, positions and units afterwards.

        Cost: reads nothing.

        Raises:
            SelectionError: the site is not of such a table, or rows were selected before.

        Example:
            >>> import tempfile, torch, lazycache as lc
            >>> layer, url = torch.nn.Linear(2, 2), tempfile.mkdtemp()
            >>> model = torch.nn.Sequential(layer, layer)
            >>> with lc.capture(model, url, "0:out@*"):
            ...     _ = model(torch.ones(3, 2))
            >>> lc.open(url)["0:out@*"].call(-1).shape
            torch.Size([3, 1, 2])
        """
        return self._view(lead=one_call(self._source, self._lead, number))

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
        length = len(self)
        if not self.lead_ndim:
            return (self[i] for i in range(length))
        return (self._view(lead=entry) for entry in self.lead.entries())

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_pickled(self, f"lc.open({self._source.url!r})[{self.site!r}]")

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

    def to(
        self,
        *args: torch.dtype | torch.device | str,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> LazyTensor:
        """Return it with another dtype, device, or both; converted when it is loaded.

        Raises:
            SelectionError: an argument is neither; a dtype is `torch.float16`, not `"float16"`.
            UnsupportedDtypeError: a dtype that datasets do not hold.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].to(torch.float64)[0, 0].load()
            tensor([0., 1.], dtype=torch.float64)
        """
        to_dtype, to_device = targets(args, dtype, device)
        return LazyTensor(
            self._source,
            lead=self._lead,
            units=self._units,
            dtype=to_dtype or self._dtype,
            device=to_device or self._device,
        )

    def load(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Read the selection into a tensor.

        The tensor is the caller's own, to be written to in any way: nothing reaches the file or
        other loads, and pickling it writes these rows only.

        Cost: 64 KiB or more of one chunk of a local dataset, in the stored dtype and at least half
        of each row, are not copied: a private map of these rows. The file must not be truncated
        while the tensor lives. Otherwise one allocation and one copy of what is selected.

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

        Shape is `x.shape`, (examples, longest, ...); dtype that of `x`. Examples of one length have
        nothing to be filled up: as `load`.

        Cost: the padded tensor, and the values of a block of examples at a time.

        Raises:
            SelectionError: `value` is no number that the dtype holds.

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

        Shape (examples, ragged, ...); dtype that of `x`.

        Raises:
            SelectionError: there is no dimension of positions.

        Example:
            >>> from lazycache.samples import small_cache
            >>> [len(part) for part in small_cache()["resid_out_0"].nested().unbind()]
            [2, 3, 1]
        """
        return nested(self)

    def numpy(self) -> np.ndarray:
        """Read the selection into an array; bfloat16 and float8 as float32, which is exact.

        Shape and cost as `load`, also that the array is the caller's own to write to; a dtype that
        numpy lacks costs another copy.

        Raises:
            SelectionError: examples differ in length, or the site does not have some of the rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][2].numpy()
            array([[10., 11.]], dtype=float32)
        """
        return to_numpy(self)

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
        """Read absolute rows with this tensor's units, dtype and device: [n, *row_shape].

        For this package, as `scan`.
        """
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
