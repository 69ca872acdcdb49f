"""Rows as they come to tiles of numbers that stay in the processor's cache. For one thread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from lazycache.codec.dtypes import Dtype, by_name
from lazycache.codec.statistics import ZONE_ROWS
from lazycache.types import SiteSpec
from lazycache.writer.scratch import scratch


class Tiles:
    r"""Turns the bytes of rows into `[rows, units]` arrays that numpy can compute with.

    A tile never reaches over the end of a zone. Its numbers are exact: float32 holds those of all
    narrower floats, int64 those of all integers but uint64. All is numpy: torch would compute with
    the threads of the forward pass. The tiles of one thread share their memory, so one chunk is
    taken at a time.

    Example:
        >>> tiles = Tiles(SiteSpec("a", "tokens", "bfloat16", (2,), 4))
        >>> two_rows = memoryview(bytearray(b"\x80\x3f\x00\x40" * 2))
        >>> list(tiles.of([(two_rows, 2)]))
        [array([[1., 2.],
               [1., 2.]], dtype=float32)]
    """

    def __init__(self, spec: SiteSpec) -> None:
        self._dtype = by_name(spec.dtype)
        self._units = math.prod(spec.shape)
        self._row_bytes = spec.row_bytes
        self.dtype = _working(spec.dtype)
        """Of the tiles."""
        self._plain = self.dtype == self._dtype.numpy  # its bytes are the numbers
        self._table = _table(self._dtype)
        self._first = 0  # rows of the zone that earlier tiles had
        self._stop = 0  # rows of the zone that there are

    def of(self, pieces: Iterable[tuple[memoryview, int]]) -> Iterator[np.ndarray]:
        """Yield the tiles of a chunk, each valid until the next step; a zone may go on in the next.

        Args:
            pieces: Bytes of rows and how many, in order.

        Cost: one pass over the values; none where a tile is a part of them.
        """
        tile = scratch("tile", (ZONE_ROWS, self._units), self.dtype)
        for values, rows in pieces:
            yield from self._piece(tile, values, rows)
        if self._first < self._stop:
            yield tile[self._first : self._stop]
            self._first = self._stop

    def _piece(self, tile: np.ndarray, values: memoryview, rows: int) -> Iterator[np.ndarray]:
        row = 0
        while row < rows:
            if self._plain and not self._stop and rows - row >= ZONE_ROWS:
                yield self._numbers(values, row, row + ZONE_ROWS)
                row += ZONE_ROWS
                continue
            taken = min(rows - row, ZONE_ROWS - self._stop)
            stop = self._stop + taken
            self._copy(values, row, row + taken, tile[self._stop : stop])
            row, self._stop = row + taken, stop
            if stop == ZONE_ROWS:
                yield tile[self._first :]
                self._first = self._stop = 0

    def _copy(self, values: memoryview, row: int, stop: int, target: np.ndarray) -> None:
        numbers = self._numbers(values, row, stop)
        if self._dtype.name == "bfloat16":
            bits = target.view(np.uint32)
            np.copyto(bits, numbers)
            np.left_shift(bits, 16, out=bits)  # the upper half of a float32
        elif self._table is not None:
            np.take(self._table, numbers, out=target, mode="clip")
        else:
            np.copyto(target, numbers)

    def _numbers(self, values: memoryview, row: int, stop: int) -> np.ndarray:
        raw = np.frombuffer(values[row * self._row_bytes : stop * self._row_bytes], np.uint8)
        kind = self._dtype.numpy or np.dtype(f"u{self._dtype.itemsize}")
        return raw.view(kind).reshape(stop - row, self._units)


def _working(dtype: str) -> np.dtype:
    """Return the numpy dtype that holds every value exactly and is fast."""
    kind = by_name(dtype)
    if kind.torch.is_floating_point:
        return np.dtype("float64" if dtype == "float64" else "float32")
    return np.dtype("uint64" if dtype == "uint64" else "int64")


def _table(dtype: Dtype) -> np.ndarray | None:
    """Return the numbers of all patterns of 8 bits, for floats that numpy lacks."""
    if dtype.numpy is not None or dtype.itemsize != 1:
        return None
    patterns = torch.arange(256, dtype=torch.uint8, device="cpu").view(dtype.torch)
    return patterns.float().numpy()
