"""Tensors that are about to be stored: what they are, and their bytes piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.catalog.entry_records import MOST_DIMS, can_be
from lazycache.codec.dtypes import DTYPES, as_bytes, by_name, of_tensor, of_torch
from lazycache.errors import UnsupportedDtypeError

CHUNK_BYTES = 1 << 30
"""Most bytes of a chunk: it is one page, and one map when it is read."""

COPIED_BYTES = 64 << 20
"""Most bytes of a chunk of what has to be copied to be written: moved, or read."""

_NUMPY = {dtype.numpy: dtype.name for dtype in DTYPES if dtype.numpy is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A tensor to be stored."""

    dtype: str
    """Its stored dtype."""
    shape: tuple[int, ...]
    """Its shape."""
    lead: int
    """How many of its dimensions count rows; the others are the shape of a row."""
    chunks: Callable[[], Iterator[memoryview]]
    """Gives its bytes in order, in pieces of whole rows."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape[self.lead :]) * by_name(self.dtype).itemsize


def leaf_of_tensor(tensor: torch.Tensor) -> Leaf:
    """Return how a tensor is stored.

    Cost: nothing now. Written, a contiguous tensor on the CPU is not copied; of another one 64 MiB
    (or one row) at a time are.

    Raises:
        UnsupportedDtypeError: values that cannot be stored bit for bit.
    """
    if tensor.is_meta:
        raise UnsupportedDtypeError("a tensor on the device meta has no values to save.")
    if tensor.is_nested:
        raise UnsupportedDtypeError("a nested tensor cannot be saved: save the list of its parts.")
    dtype, shape, plain = of_tensor(tensor), tuple(tensor.shape), tensor.detach()
    lead = _lead(shape, dtype.itemsize)
    copied = plain.device.type != "cpu" or not plain.is_contiguous()

    def chunks() -> Iterator[memoryview]:
        for start, stop in _pieces(shape, lead, dtype.itemsize, copied=copied):
            rows = plain.reshape(-1, *shape[lead:])
            yield as_bytes(rows[start:stop].cpu().contiguous())

    return Leaf(dtype.name, shape, lead, chunks)


def leaf_of_array(array: np.ndarray) -> Leaf:
    """Return how a numpy array is stored: as a tensor, or as bytes where torch lacks the dtype.

    Cost: nothing now. Written, an array that is not row-major in memory is copied.

    Raises:
        UnsupportedDtypeError: more dimensions than can be read again.
    """
    if array.ndim > MOST_DIMS:
        raise UnsupportedDtypeError(
            f"an array of {array.ndim} dimensions cannot be saved: {MOST_DIMS} are the most."
        )
    name = _NUMPY.get(array.dtype)
    shape, itemsize = (array.shape, array.itemsize) if name else ((array.nbytes,), 1)
    lead = _lead(shape, itemsize)

    def chunks() -> Iterator[memoryview]:
        row = math.prod(shape[lead:]) * itemsize
        for start, stop in _pieces(shape, lead, itemsize, copied=False):
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            yield raw.data[start * row : stop * row]

    return Leaf(name or "uint8", shape, lead, chunks)


def leaf_of_rows(x: LazyTensor) -> Leaf:
    """Return how a lazy tensor is stored: of examples that differ in length, row after row.

    Cost: nothing now. Written, it is read 64 MiB (or one row) at a time.
    """
    dtype, rows = of_torch(x.dtype), x.lead.flat()
    shape = (len(rows), *x.row_shape) if x.is_ragged else tuple(x.shape)
    lead = 1 if x.is_ragged else x.lead_ndim if math.prod(shape) else len(shape)
    if (row_bytes := math.prod(shape[lead:]) * dtype.itemsize) > CHUNK_BYTES:
        raise UnsupportedDtypeError(
            f"rows of {row_bytes:,} bytes cannot be saved; {CHUNK_BYTES:,} are the most. Load it, "
            "cache[key] = x.load(), and save that."
        )

    def chunks() -> Iterator[memoryview]:
        for start, stop in _pieces(shape, lead, dtype.itemsize, copied=True):
            yield as_bytes(x.values_of(rows[start:stop]).cpu().contiguous())

    return Leaf(dtype.name, shape, lead, chunks)


def _lead(shape: tuple[int, ...], itemsize: int) -> int:
    """Return how many dimensions count rows: one, or so many that a row has a page's bytes.

    Without values all of them do: a row of no bytes would have no place.
    """
    if not can_be(shape):
        raise UnsupportedDtypeError(
            f"a tensor of {len(shape)} dimensions and shape {shape} cannot be saved: up to "
            f"{MOST_DIMS} dimensions can be read again."
        )
    lead = min(1, len(shape)) if math.prod(shape) else len(shape)
    while lead < len(shape) and math.prod(shape[lead:]) * itemsize > CHUNK_BYTES:
        lead += 1
    return lead


def _pieces(
    shape: tuple[int, ...], lead: int, itemsize: int, *, copied: bool
) -> Iterator[tuple[int, int]]:
    rows = math.prod(shape[:lead])
    row = math.prod(shape[lead:]) * itemsize
    if not rows * row:
        return
    step = max(1, (COPIED_BYTES if copied else CHUNK_BYTES) // row)
    for start in range(0, rows, step):
        yield start, min(rows, start + step)
