"""The arrays that runs keep, as tensors to compute with; a few of them stay in memory."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import torch

from lazycache.codec.dtypes import by_name, from_buffer
from lazycache.errors import CorruptShardError
from lazycache.storage.known_files import KnownFiles, checked
from lazycache.types import ArrayRef, IoCounters

KEPT_BYTES = 256 << 20
"""Bytes of arrays that are kept; at least one is, however large."""


class Matrices:
    """Arrays of a snapshot by their file, least recently used first to go. Thread-safe."""

    def __init__(self, files: KnownFiles, io: IoCounters) -> None:
        self._files = files
        self._io = io
        self._kept: OrderedDict[tuple[str, torch.dtype], torch.Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, ref: ArrayRef, dtype: torch.dtype) -> torch.Tensor:
        """Return an array in the dtype to compute in. Its checksum is compared when it is read.

        Raises:
            CorruptShardError: the file is not what the log recorded.
            StorageError: the store failed.
        """
        key = (ref.path, dtype)
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        made = checked(self._files, ref, lambda: self._read(ref)).to(dtype)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return made

    def lacks(self, ref: ArrayRef, dtype: torch.dtype) -> int:
        """Return how many bytes `get` would read: none of what is kept."""
        with self._lock:
            if (ref.path, dtype) in self._kept:
                return 0
        return torch.Size(ref.shape).numel() * by_name(ref.dtype).itemsize

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._kept.clear()

    def _read(self, ref: ArrayRef) -> torch.Tensor:
        dtype = by_name(ref.dtype)
        size = torch.Size(ref.shape).numel() * dtype.itemsize
        span = (ref.value_offset, ref.value_offset + size)
        try:
            got = self._files.get_ranges(ref, [span])
        except FileNotFoundError as exc:
            raise CorruptShardError(f"array {ref.name!r} is missing: {ref.path}.") from exc
        self._io.add(requests=got.requests, rows=0, nbytes=got.nbytes, cached=got.cached)
        (data,) = got.parts
        if zlib.crc32(data) != ref.value_crc:
            raise CorruptShardError(
                f"array {ref.name!r}, {ref.path}, does not have the checksum that was recorded "
                "when it was written: restore the file from a copy."
            )
        return from_buffer(data, dtype, ref.shape)


def of_heads(
    matrix: torch.Tensor, ref: ArrayRef, *, heads: Sequence[int] | None, shape: tuple[int, int, int]
) -> torch.Tensor:
    """Return the blocks of the heads that were stored: [heads, d_head, d_model], which is `shape`.

    Raises:
        CorruptShardError: the array is not one of these heads.
    """
    known = range(len(matrix))
    chosen = matrix
    if heads is not None and all(head in known for head in heads):
        chosen = matrix[torch.tensor(heads, dtype=torch.int64, device="cpu")]
    if tuple(chosen.shape) != shape:
        raise CorruptShardError(
            f"array {ref.name!r} has the shape {list(ref.shape)}; for the stored heads "
            f"{list(shape)} is needed: the log is damaged."
        )
    return chosen
