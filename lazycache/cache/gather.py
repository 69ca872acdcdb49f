"""Rows of mapped or fetched bytes as tensors.

Consecutive rows are a strided view; scattered rows are one indexed copy. Bytes are moved by numpy,
whatever the dtype: torch has no indexed copy for some dtypes, and numpy stays on our thread.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from lazycache.cache.plan_checks import ALIGNMENT
from lazycache.cache.units import Units
from lazycache.errors import MemoryBudgetError

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HUGE_BYTES = 1 << 22


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return uninitialised memory; large ones on huge pages, which halves the cost of a load.

    Raises:
        MemoryBudgetError: the system has not that much memory.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _HUGE_BYTES:
        # named: torch.set_default_device must not decide where bytes are read to
        return torch.empty(shape, dtype=dtype, device="cpu")
    try:
        # numpy asks the kernel for huge pages (MADV_HUGEPAGE), torch's allocator does not
        raw = np.empty(nbytes, dtype=np.uint8)
    except MemoryError as exc:
        raise MemoryBudgetError(
            f"{nbytes:,} bytes for a tensor of shape {shape}: the system does not have them. "
            "Read a part, or stream with .chunks() or an aggregation."
        ) from exc
    return as_tensor(raw, dtype, shape)


def rows_view(
    flat: torch.Tensor, *, offset: int, rows: int, row_elements: int, units: Units
) -> torch.Tensor:
    """Return consecutive rows of a flat tensor of the site's dtype: [rows, *units.shape].

    `offset` is the first row's element. A strided window of units is a view; scattered units are
    copied.
    """
    if units.strides is not None:
        shape, strides = (rows, *units.shape), (row_elements, *units.strides)
        return flat.as_strided(shape, strides, offset + units.start)
    assert units.positions is not None
    whole = flat.as_strided((rows, row_elements), (row_elements, 1), offset)
    words = words_of(whole)[:, units.positions.reshape(-1)]
    return as_tensor(words.reshape(-1).view(np.uint8), flat.dtype, (rows, *units.shape))


class _Memory:
    """Bytes of this process as numpy sees them: elements at a fixed distance from an address."""

    def __init__(self, address: int, *, count: int, stride: int, kind: str) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, True),
            "shape": (count,),
            "strides": (stride,),
            "typestr": kind,
        }


def gather_rows(
    addresses: np.ndarray, *, row_bytes: int, itemsize: int, units: Units
) -> np.ndarray:
    """Copy the units of rows that begin at memory addresses: uint8[n * bytes of the units].

    The rows may lie in any number of maps, whose bytes the caller has checked and keeps alive.
    Every row begins at a multiple of a `slot` from every other, across chunks and files (chunks are
    aligned, maps begin at pages): so all of them are elements of one array of overlapping rows, and
    one indexed copy gathers them in the order asked for, whatever they belong to.
    """
    low = int(addresses.min())
    reach = int(addresses.max()) - low
    if units.is_run:
        size, start, stride = units.count * itemsize, units.start * itemsize, _slot(row_bytes)
        index = (addresses - low) // stride
    else:
        size, start, stride = itemsize, 0, itemsize
        places = places_of(units)
        index = ((addresses - low) // itemsize)[:, None] + places
        reach += int(places.max()) * itemsize
    kind = f"<u{size}" if size in _WORDS else f"|V{size}"
    memory = _Memory(low + start, count=reach // stride + 1, stride=stride, kind=kind)
    gathered: np.ndarray = np.asarray(memory)[index]
    return gathered.reshape(-1).view(np.uint8)


def _slot(row_bytes: int) -> int:
    return math.gcd(ALIGNMENT, row_bytes)


def as_tensor(raw: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return bytes of an array as a tensor that shares and owns its memory."""
    return torch.from_numpy(raw).view(dtype).view(shape)


def places_of(units: Units) -> np.ndarray:
    """Return the elements of a row that are selected, in order: int64[n]."""
    if units.positions is not None:
        return units.positions.reshape(-1)
    assert units.strides is not None
    places = np.array(units.start, dtype=np.int64)
    for n, s in zip(units.shape, units.strides, strict=True):
        places = places[..., None] + np.arange(n) * s
    return places.reshape(-1)


def words_of(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as a numpy array of unsigned words, sharing its memory; strides are kept."""
    words: np.ndarray = tensor.view(_WORDS[tensor.element_size()]).numpy()
    return words.view(f"u{tensor.element_size()}")


def rows_of_bytes(
    buffer: memoryview, *, itemsize: int, rows: int, row_elements: int, units: Units, skip: int
) -> np.ndarray:
    """Return the units of consecutive rows in fetched bytes, as unsigned words.

    `skip` is how many elements of the first row come before the buffer. Cost: a view, or a copy of
    scattered units.
    """
    flat = np.frombuffer(buffer, dtype=f"u{itemsize}")
    if units.strides is not None:
        return np.lib.stride_tricks.as_strided(
            flat[units.start - skip :],
            (rows, *units.shape),
            tuple(s * itemsize for s in (row_elements, *units.strides)),
            writeable=False,
        )
    assert units.positions is not None
    numbers = np.arange(rows).reshape((rows,) + (1,) * units.positions.ndim) * row_elements
    picked: np.ndarray = flat[numbers + (units.positions - skip)]
    return picked
