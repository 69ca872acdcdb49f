"""Values that were stored beside the sites, as ops of a log record and back. Pure.

An op names every file of its value, with its length and where the values of each tensor lie; so
nothing is read to know what a cache has, and every file of a dataset is named by its log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from lazycache.catalog import fields
from lazycache.codec.dtypes import DTYPES
from lazycache.errors import CorruptShardError
from lazycache.types import ChunkRef, EntryRef, TensorRef

MOST_TREE_BYTES = 256 << 20
"""Bytes of the tree of one value: numbers and texts, not tensors."""

MOST_ROW_BYTES = 1 << 30
"""Bytes of a row of a tensor's file, and so of a page, which says its size in 32 bits."""

MOST_DIMS = 32
"""Dimensions of a tensor."""

_MOST_ROWS = 1 << 59  # numpy holds as many row numbers
_ITEM_BYTES = {dtype.name: dtype.itemsize for dtype in DTYPES}


def can_be(shape: Sequence[int]) -> bool:
    """Whether a tensor may have this shape: 32 dimensions, and sizes that arrays can have.

    Example:
        >>> can_be((3, 4)), can_be((1 << 60, 0)), can_be((1,) * 33)
        (True, False, False)
    """
    return len(shape) <= MOST_DIMS and prod(max(1, size) for size in shape) <= _MOST_ROWS


def encode_entry(entry: EntryRef) -> dict[str, Any]:
    """Return the op of a value."""
    op: dict[str, Any] = {"op": "entry", "name": entry.name}
    op["tensors"] = [_encode_tensor(tensor) for tensor in entry.tensors]
    if entry.path is not None:
        place = {"start": entry.start, "length": entry.length, "crc": entry.crc}
        op |= {"path": entry.path, **place}
    return {**op, "optional": True}  # who does not know values reads all sites


def _encode_tensor(tensor: TensorRef) -> dict[str, Any]:
    entry: dict[str, Any] = {"dtype": tensor.dtype, "shape": tensor.shape, "lead": tensor.lead}
    if tensor.path is None:
        return entry
    chunks = [[chunk.rows, chunk.value_offset, chunk.value_crc] for chunk in tensor.chunks]
    return {**entry, "path": tensor.path, "length": tensor.length, "chunks": chunks}


def decode_entry(op: Mapping[str, Any]) -> EntryRef:
    """Return the value that an op names; raises `CorruptShardError` as `fields` does."""
    tensors = tuple([_tensor(fields.mapping(t)) for t in fields.sequence(op, "tensors")])
    name = fields.name(op, "name")
    if op.get("path") is None:
        return EntryRef(name, tensors, None, 0, 0, 0)
    numbers = [fields.integer(op, key) for key in ("start", "length", "crc")]
    return EntryRef(name, tensors, fields.path(op), *numbers)


def _tensor(entry: Mapping[str, Any]) -> TensorRef:
    dtype, shape = fields.name(entry, "dtype"), fields.integers(entry.get("shape"))
    lead = fields.integer(entry, "lead")
    if entry.get("path") is None:
        return TensorRef(dtype, shape, lead, None, 0, ())
    chunks = tuple([_chunk(chunk) for chunk in fields.sequence(entry, "chunks")])
    path = fields.path(entry)
    return TensorRef(dtype, shape, lead, path, fields.integer(entry, "length"), chunks)


def _chunk(entry: Any) -> ChunkRef:
    numbers = fields.integers(entry)
    if len(numbers) != 3 or numbers[2] >> 32:  # noqa: PLR2004 - rows, offset and CRC
        raise CorruptShardError(f"not a chunk: {str(entry)[:80]}")
    return ChunkRef(*numbers, index_offsets=())


def check_entry(entry: EntryRef) -> None:
    """Raise `CorruptShardError` unless a value can be what its op says."""
    if entry.path is None and len(entry.tensors) != 1:
        raise CorruptShardError(f"Entry {entry.name!r} is neither a tensor nor has a tree.")
    if (entry.path is not None and not 0 < entry.length <= MOST_TREE_BYTES) or entry.crc >> 32:
        raise CorruptShardError(
            f"Entry {entry.name!r} has a tree of {entry.length:,} bytes and the CRC {entry.crc}: "
            f"1 to {MOST_TREE_BYTES:,} bytes can be read."
        )
    for tensor in entry.tensors:
        _check_tensor(entry.name, tensor)


def _check_tensor(name: str, tensor: TensorRef) -> None:
    size, dims = _ITEM_BYTES.get(tensor.dtype), len(tensor.shape)
    what = f"Entry {name!r}: a tensor of {tensor.dtype} and shape {tensor.shape}"
    if size is None or not can_be(tensor.shape) or tensor.lead > dims:
        raise CorruptShardError(f"{what}, {tensor.lead} dimensions of it rows, cannot be read.")
    rows, row = prod(tensor.shape[: tensor.lead]), prod(tensor.shape[tensor.lead :]) * size
    if (tensor.path is None) != (rows * row == 0):
        raise CorruptShardError(f"{what} has {rows * row:,} bytes, and the file {tensor.path!r}.")
    if tensor.path is not None:
        if row > MOST_ROW_BYTES or sum(chunk.rows for chunk in tensor.chunks) != rows:
            raise CorruptShardError(f"{what} does not have the rows of its chunks.")
        for chunk in tensor.chunks:
            _check_chunk(what, chunk, row=row, length=tensor.length)


def _check_chunk(what: str, chunk: ChunkRef, *, row: int, length: int) -> None:
    stop = chunk.value_offset + chunk.rows * row
    if not chunk.rows or chunk.value_offset % 64 or stop > length:
        raise CorruptShardError(
            f"{what}: {chunk.rows} rows from byte {chunk.value_offset} do not fit in the file of "
            f"{length} bytes."
        )


def entry_paths(entries: Sequence[EntryRef]) -> list[str]:
    """Return the files of the values of one commit, which share the file of their trees.

    Example:
        >>> entry_paths([EntryRef("a", (), "entries/1.json", 0, 2, 7)] * 2)
        ['entries/1.json']
    """
    trees = dict.fromkeys(entry.path for entry in entries if entry.path is not None)
    files = [tensor.path for entry in entries for tensor in entry.tensors]
    return [*trees, *(path for path in files if path is not None)]


def entry_lengths(entries: Iterable[EntryRef]) -> Iterator[tuple[str, int]]:
    """Yield the files of values and how long each is at least; the file of several trees once.

    Example:
        >>> list(entry_lengths([EntryRef("a", (), "entries/1.json", 4, 2, 7)]))
        [('entries/1.json', 6)]
    """
    trees: dict[str, int] = {}
    for entry in entries:
        if entry.path is not None:
            trees[entry.path] = max(trees.get(entry.path, 0), entry.start + entry.length)
        for tensor in entry.tensors:
            if tensor.path is not None:
                yield tensor.path, tensor.length
    yield from trees.items()
