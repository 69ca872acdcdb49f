"""Values beside the sites to files: their tensors one file each, their trees all in one."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from lazycache.codec.pages import FIXED, Column, PageFile, Payload
from lazycache.codec.shard import VALUE
from lazycache.errors import StorageError
from lazycache.late_bars import fed_late_bar, late_bar
from lazycache.storage.layout import entry_path
from lazycache.storage.store import Store, Upload
from lazycache.types import ChunkRef, EntryRef, TensorRef


class Leaf(Protocol):
    """A tensor to be stored: `cache.tensor_leaves.Leaf`."""

    @property
    def dtype(self) -> str:
        """Its stored dtype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def lead(self) -> int:
        """How many of its dimensions count rows."""
        ...

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        ...

    @property
    def chunks(self) -> Callable[[], Iterator[memoryview]]:
        """Gives its bytes in order, in pieces of whole rows."""
        ...


@dataclass(frozen=True, slots=True)
class Value:
    """A value to be stored."""

    name: str
    """Its key."""
    tree: bytes | None
    """Its tree; None: it is its one tensor."""
    leaves: Sequence[Leaf]
    """Its tensors, as the tree counts them."""


class EntryFiles:
    """Write values; a commit names what `write` returns.

    Cost: the bytes of a tensor are read once for their CRC and written; no second copy is made of
    what its leaf gives.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.paths: list[str] = []
        """Files that were written, or begun."""

    def write(self, values: Sequence[Value]) -> list[EntryRef]:
        """Write the files of values.

        Raises:
            StorageError: the store failed. What was written is left for `delete`.
        """
        with late_bar("save values", total=None, fed=True):
            return self._written(values)

    def _written(self, values: Sequence[Value]) -> list[EntryRef]:
        path = entry_path(uuid.uuid4().hex, suffix="json")
        trees, at, refs = [], 0, []
        for value in values:
            tensors = tuple([self._tensor(value.name, leaf) for leaf in value.leaves])
            if value.tree is None:
                refs.append(EntryRef(value.name, tensors, None, 0, 0, 0))
                continue
            place = (at, len(value.tree), zlib.crc32(value.tree))
            refs.append(EntryRef(value.name, tensors, path, *place))
            trees += [value.tree, b"\n"]
            at += len(value.tree) + 1
        if trees:
            self.paths.append(path)
            self._store.put(path, b"".join(trees))
        return refs

    def delete(self) -> None:
        """Delete what was written: no commit names it."""
        for path in self.paths:
            with suppress(StorageError):  # invisible all the same; there is an error to tell
                self._store.delete(path)

    def _tensor(self, name: str, leaf: Leaf) -> TensorRef:
        chunks = _told(leaf.chunks())
        first = next(chunks, None)
        if first is None:
            return TensorRef(leaf.dtype, leaf.shape, leaf.lead, None, 0, ())
        path = entry_path(uuid.uuid4().hex, suffix="parquet")
        self.paths.append(path)
        upload = self._store.create(path)
        try:
            length, places = _encode(name, leaf, _chain(first, chunks), upload)
            upload.finish()
        except BaseException:
            with suppress(StorageError):  # the error that led here is told instead
                upload.abort()
            raise
        return TensorRef(leaf.dtype, leaf.shape, leaf.lead, path, length, tuple(places))


def _told(chunks: Iterator[memoryview]) -> Iterator[memoryview]:
    """Yield chunks, and say when each is written."""
    bar = fed_late_bar()
    for chunk in chunks:
        yield chunk
        bar.advance(chunk.nbytes)


def _chain(first: memoryview, rest: Iterator[memoryview]) -> Iterator[memoryview]:
    yield first
    yield from rest


def _encode(
    name: str, leaf: Leaf, chunks: Iterator[memoryview], upload: Upload
) -> tuple[int, list[ChunkRef]]:
    """Write one tensor's file; return its length and where its chunks are."""
    column = Column(VALUE, FIXED, width=leaf.row_bytes)
    pages = PageFile([column], _metadata(name, leaf), write=upload.write)
    places = []
    for chunk in chunks:
        rows = chunk.nbytes // leaf.row_bytes
        (place,) = pages.add_group([Payload([chunk])], rows=rows)
        places.append(ChunkRef(rows, place.offset, place.crc, index_offsets=()))
    pages.finish()
    return pages.length, places


def _metadata(name: str, leaf: Leaf) -> Mapping[str, str]:
    return {
        "lazycache.version": "1",
        "lazycache.entry": name,
        "lazycache.dtype": leaf.dtype,
        "lazycache.shape": json.dumps(list(leaf.shape)),
    }
