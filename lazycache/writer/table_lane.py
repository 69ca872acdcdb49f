"""One table on its way to disk: the columns of many batches to few files. For one worker thread."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pyarrow as pa

from lazycache.codec.columns import ARROW_TYPES
from lazycache.codec.tables import encode_table, run_lengths
from lazycache.storage.layout import table_path
from lazycache.storage.store import Store
from lazycache.types import TableFileRef
from lazycache.writer.parts import TablePart
from lazycache.writer.settings import Settings

FILE_BYTES = 16 << 20
"""Bytes of columns in memory at which a file is written."""


class TableLane:
    """Writes the rows of one table; holds the columns of the rows that are not written."""

    def __init__(
        self, table: str, *, store: Store, settings: Settings, free: Callable[[int], None]
    ) -> None:
        self._table = table
        self._store = store
        self._settings = settings
        self._free = free
        self._parts: list[TablePart] = []
        self._row = 0
        self._done: list[TableFileRef] = []
        self.held = 0
        """Bytes of budget that `flush` would free."""

    def add(self, part: TablePart) -> None:
        """Take rows over; write a file when there are enough."""
        self._parts.append(part)
        self.held += part.nbytes
        if self.held >= FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows there are as one file."""
        if not self._parts:
            return
        held, self.held = self.held, 0
        parts, self._parts = self._parts, []
        self._write(parts)
        parts.clear()  # memory first, then the budget
        self._free(held)

    def finish(self) -> list[TableFileRef]:
        """Write all there is and return the files of the transaction; start the next one."""
        self.flush()
        self._row = 0
        return self.take()

    def take(self) -> list[TableFileRef]:
        """Return the finished files and forget them."""
        done, self._done = self._done, []
        return done

    def abort(self) -> None:
        """Drop what is open."""
        self._parts = []

    def _write(self, parts: list[TablePart]) -> None:
        types = {name: kind for part in parts for name, kind in part.types.items()}
        columns = {name: _joined(name, kind, parts) for name, kind in types.items()}
        data = encode_table(columns)
        path = table_path(self._table, unique=uuid.uuid4().hex, rank=self._settings.rank)
        self._store.put(path, data)
        rows = sum(part.rows for part in parts)
        examples, lengths = run_lengths(columns["example"].to_numpy())
        self._done.append(
            TableFileRef(
                table=self._table,
                path=path,
                length=len(data),
                rows=rows,
                row_start=self._row,
                columns=types,
                examples=examples,
                lengths=lengths,
            )
        )
        self._row += rows


def _joined(name: str, kind: str, parts: list[TablePart]) -> pa.ChunkedArray:
    """Return one column of all parts, NULL for parts that lack it."""
    arrow = ARROW_TYPES[kind]
    arrays = [
        part.columns[name].cast(arrow) if name in part.columns else pa.nulls(part.rows, arrow)
        for part in parts
    ]
    return pa.chunked_array(arrays, arrow)
