"""The numbers of a shard to one Parquet file, each matrix at a place that the log can name.

A row of the file is a block, a zone or a rank, as its `kind` says. What a kind does not have is
NULL; what it has is one value of as many bytes as the site's units need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from lazycache.codec.checksum import crc32
from lazycache.codec.pages import (
    BYTE_ARRAY,
    FIXED,
    INT64,
    UTF8,
    Column,
    PageFile,
    Payload,
    Write,
)
from lazycache.codec.statistics import BLOCK_COLUMNS, TOP_COLUMNS, ZONE_COLUMNS, part_sizes
from lazycache.types import SiteSpec, StatsPart

BLOCK, ZONE, TOP = "block", "zone", "top"
"""What a row is of."""

COLUMNS_OF: Mapping[str, tuple[str, ...]] = {
    BLOCK: BLOCK_COLUMNS,
    ZONE: ZONE_COLUMNS,
    TOP: TOP_COLUMNS,
}
"""The matrices of each kind of rows."""

_MATRICES = (*BLOCK_COLUMNS, *TOP_COLUMNS)


class StatisticsEncoder:
    """Write one statistics file: `add` for each row group, then `finish`.

    Nothing is sought or held back: every call hands its buffers to `write` at once, in file order.

    Example:
        >>> from lazycache.codec.pages import ALIGNMENT
        >>> spec, file = SiteSpec("a", "tokens", "float32", (2,), 8), bytearray()
        >>> encoder = StatisticsEncoder(spec, write=lambda b: file.extend(b"".join(b)))
        >>> low, high = np.zeros((3, 2), "<f4"), np.ones((3, 2), "<f4")
        >>> matrices = {"min": low.data.cast("B"), "max": high.data.cast("B")}
        >>> part = encoder.add(ZONE, [0, 128, 256], [128, 128, 5], matrices)
        >>> encoder.finish()
        >>> np.frombuffer(file, "<f4", 6, offset=part.offsets[1])
        array([1., 1., 1., 1., 1., 1.], dtype=float32)
    """

    def __init__(self, spec: SiteSpec, *, write: Write) -> None:
        self._write = write
        self._written: Sequence[memoryview] = ()  # by the last call
        sizes = part_sizes(spec, _MATRICES)
        matrices = [
            Column(name, FIXED, width=size, optional=True)
            for name, size in zip(_MATRICES, sizes, strict=True)
        ]
        index = [
            Column("kind", BYTE_ARRAY, converted=UTF8),
            Column("row_start", INT64),
            Column("rows", INT64),
        ]
        self._pages = PageFile([*index, *matrices], _metadata(spec), write=self._pass_on)

    @property
    def length(self) -> int:
        """Bytes so far; after `finish`, of the whole file."""
        return self._pages.length

    def add(
        self,
        kind: str,
        starts: Sequence[int],
        rows: Sequence[int],
        matrices: Mapping[str, memoryview],
    ) -> StatsPart:
        """Append a row group and return where it lies.

        Args:
            kind: `BLOCK`, `ZONE` or `TOP`.
            starts: The first row that each is about, counted from the first row of the shard.
            rows: How many rows each is about.
            matrices: Some or all of `COLUMNS_OF[kind]`; of those that are left out, all is zero.
        """
        count, name = len(starts), kind.encode()
        index = [
            memoryview((len(name).to_bytes(4, "little") + name) * count),
            *(np.array(column, "<i8").data.cast("B") for column in (starts, rows)),
        ]
        values = [[matrices[name]] if name in matrices else [] for name in _MATRICES]
        payloads = [Payload(pieces) for pieces in (*([column] for column in index), *values)]
        places = self._pages.add_group(payloads, rows=count)
        offsets = dict(
            zip(_MATRICES, [place.offset for place in places[len(index) :]], strict=True)
        )
        wanted = tuple(offsets[n] if n in matrices else 0 for n in COLUMNS_OF[kind])
        ends = [offsets[n] + matrices[n].nbytes for n in matrices]
        first = min(offsets[n] for n in matrices)
        return StatsPart(count, self._checksum(first, max(ends)), wanted)

    def finish(self) -> None:
        """Write the footer. The file is complete when this returns."""
        self._pages.finish()

    def _pass_on(self, buffers: Sequence[memoryview]) -> None:
        self._written = buffers
        self._write(buffers)

    def _checksum(self, start: int, stop: int) -> int:
        """CRC-32 of a range of the last bytes written."""
        crc, at = 0, self._pages.length - sum(buffer.nbytes for buffer in self._written)
        for buffer in self._written:
            crc = crc32(buffer[max(0, start - at) : max(0, stop - at)], crc)
            at += buffer.nbytes
        return crc


def _metadata(spec: SiteSpec) -> dict[str, str]:
    return {
        "lazycache.version": "1",
        "lazycache.statistics": spec.name,
        "lazycache.table": spec.table,
        "lazycache.dtype": spec.dtype,
        "lazycache.shape": json.dumps(list(spec.shape)),
    }
