"""Rows of mapped or fetched bytes as tensors.

Consecutive rows are a strided view; scattered rows are one indexed copy. Bytes are moved by numpy,
whatever the dtype: torch has no indexed copy for some dtypes, and numpy stays on our thread.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from lazycache.cache.files.parallel import PIECE_VALUES, share
from lazycache.cache.selecting.plan_checks import ALIGNMENT
from lazycache.cache.selecting.units import Units, places_of
from lazycache.errors import MemoryBudgetError

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_WIDE = {8: "<i8", 16: "<c16"}
_SHARED_BYTES = 4 << 20
"""Below this a second thread costs more than it gains."""
_WORTH_A_CALL = 256
"""Bytes of a piece from which torch copies as fast as numpy, and into memory that is there."""
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
        # called writable, or torch warns; nobody writes
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": (count,),
            "strides": (stride,),
            "typestr": kind,
        }


def gather_rows(
    addresses: np.ndarray,
    *,
    row_bytes: int,
    itemsize: int,
    units: Units,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Copy the units of rows that begin at memory addresses: uint8[n * bytes of units].

    The rows may lie in any number of maps, whose bytes the caller has checked and keeps alive.
    Every row begins at a multiple of a `slot` from every other, across chunks and files (chunks are
    aligned, maps begin at pages): so all of them are elements of one array of overlapping rows, and
    one indexed copy gathers them in the order asked for, whatever they belong to.

    Cost: one copy, to `out` or to new memory, by numpy without Python's lock; a very large one is
    shared with a second thread. To an `out` of rows that are no words, a second copy.
    """
    low = int(addresses.min())
    if units.is_run:
        size, start, stride = units.count * itemsize, units.start * itemsize, _slot(row_bytes)
        # a shift: dividing costs five times as much
        index = (addresses - low) >> (stride.bit_length() - 1)
        word = math.gcd(16, size, stride, low + start)
        large = len(index) * size >= _SHARED_BYTES
        if word in _WIDE and (large or (out is not None and size >= _WORTH_A_CALL)):
            raw = np.empty(len(index) * size, dtype=np.uint8) if out is None else out
            _gather_shared(index, low + start, stride=stride, word=word, out=raw)
            return raw
    else:
        size, start, stride = itemsize, 0, itemsize
        index = ((addresses - low) >> (stride.bit_length() - 1))[:, None] + places_of(units)
    kind = f"<u{size}" if size in _WORDS else f"|V{size}"
    memory = _Memory(low + start, count=int(index.max()) + 1, stride=stride, kind=kind)
    found: np.ndarray = np.asarray(memory)[index].reshape(-1).view(np.uint8)
    if out is None:
        return found
    out[...] = found
    return out


def _gather_shared(
    index: np.ndarray, address: int, *, stride: int, word: int, out: np.ndarray
) -> None:
    """Copy pieces that begin `index` strides behind an address; of many bytes on two threads.

    By torch, which lets go of Python's lock while it copies; in pieces so small that it starts no
    threads of its own (see `parallel`).
    """
    last, size = int(index.max()), out.size // len(index)
    count = (last * stride + size) // word
    memory = _Memory(address, count=count, stride=word, kind=_WIDE[word])
    words = torch.from_numpy(np.asarray(memory))
    rows = words.as_strided((last + 1, size // word), (stride // word, 1))
    into = torch.from_numpy(out).view(words.dtype).view(len(index), size // word)
    step = max(1, (PIECE_VALUES - 1) * word // size)
    # cut all at once: to slice one by one costs a quarter of the copy
    parts = (torch.split(one, step) for one in (torch.from_numpy(index), into))
    pieces = list(zip(*parts, strict=True))

    def copy(piece: tuple[torch.Tensor, torch.Tensor]) -> None:
        chosen, part = piece
        torch.index_select(rows, 0, chosen, out=part)

    if out.size >= _SHARED_BYTES:
        share(copy, pieces)
        return
    for one in pieces:
        copy(one)


def _slot(row_bytes: int) -> int:
    return math.gcd(ALIGNMENT, row_bytes)


def as_tensor(raw: np.ndarray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return bytes of an array as a tensor that shares and owns its memory."""
    return torch.from_numpy(raw).view(dtype).view(shape)


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
