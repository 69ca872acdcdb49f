"""Table files: whole, as the log says, and the index columns that shards must repeat."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from lazycache.care.checks.report import RESTORE, Findings, Problem
from lazycache.catalog.snapshot import PlacedTable, Snapshot
from lazycache.codec.columns import ARROW_TYPES
from lazycache.codec.tables import decode_table, run_lengths
from lazycache.errors import StorageError
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, INDEX_COLUMNS

Columns = Mapping[str, np.ndarray]
"""Index columns of some rows."""

_KEPT_ROWS = 8 << 20  # of index columns in memory: 16 bytes each


class Tables:
    """The index columns of all tables, file by file; each file is checked when it is first read.

    Files are kept while there is room, since shards of all sites ask for the same rows in turn.
    Thread-safe.
    """

    def __init__(self, store: Store, snapshot: Snapshot, found: Findings) -> None:
        self._store = store
        self._found = found
        self._files = {table: snapshot.table_files(table) for table in snapshot.tables}
        self._starts = {
            table: [file.row_start for file in files] for table, files in self._files.items()
        }
        self._checked: set[str] = set()
        self._kept: OrderedDict[str, Columns | None] = OrderedDict()
        self._lock = threading.RLock()

    def index(self, table: str, start: int, stop: int) -> Columns | None:
        """Return the index columns of some rows; None where a file of them is damaged."""
        first = bisect_right(self._starts[table], start) - 1
        parts = []
        for file in self._files[table][max(0, first) :]:
            if file.row_start >= stop:
                break
            columns = self._columns(file)
            if columns is None:
                return None
            rows = slice(max(0, start - file.row_start), stop - file.row_start)
            parts.append({name: values[rows] for name, values in columns.items()})
        return {n: np.concatenate([part[n] for part in parts]) for n in INDEX_COLUMNS[table]}

    def check_all(self) -> None:
        """Check the files that no shard has asked for, and that examples are there once."""
        for files in self._files.values():
            for file in files:
                if file.ref.path not in self._checked:
                    self._columns(file)
        self._check_examples()

    def _columns(self, file: PlacedTable) -> Columns | None:
        with self._lock:
            path = file.ref.path
            if path not in self._kept:
                self._kept[path] = self._read(file)
                while len(self._kept) > 1 and self._rows_kept() > _KEPT_ROWS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(path)
            return self._kept[path]

    def _rows_kept(self) -> int:
        return sum(len(columns["example"]) for columns in self._kept.values() if columns)

    def _read(self, file: PlacedTable) -> Columns | None:
        """Return the index columns of a file, or None; the first time, say what is wrong."""
        first = file.ref.path not in self._checked
        self._checked.add(file.ref.path)
        try:
            if self._store.size(file.ref.path) != file.ref.length:
                return self._bad(file, self._length(file), tell=first)
            rows = decode_table(self._store.get(file.ref.path))
        except FileNotFoundError:
            return self._bad(file, "the file is missing", tell=first)
        except StorageError as exc:
            return self._bad(file, str(exc).removesuffix("."), tell=first)
        if first:
            self._found.count("files")
            self._found.count("bytes", file.ref.length)
        wrong = _wrong(file, rows)
        return self._bad(file, wrong, tell=first) if wrong else _index(file, rows)

    def _length(self, file: PlacedTable) -> str:
        there = self._store.size(file.ref.path)
        return f"the file has {there:,} bytes, the log recorded {file.ref.length:,}"

    def _bad(self, file: PlacedTable, what: str, *, tell: bool) -> Columns | None:
        """Say what is wrong with a file, of which there are no columns then."""
        if tell:
            self._found.add(Problem(what, RESTORE, file.ref.path, commit=file.version))
        return None

    def _check_examples(self) -> None:
        """An example has one row in `examples`; its rows elsewhere are those of an example."""
        known: dict[str, np.ndarray] = {}
        files = self._files.get(EXAMPLES, ())
        for run in dict.fromkeys(file.run for file in files):
            own = [file.ref for file in files if file.run == run]
            ids = np.concatenate([np.repeat(ref.examples, ref.lengths) for ref in own])
            known[run], counts = np.unique(ids, return_counts=True)
            if (counts > 1).any():
                self._twice(run, known[run][counts > 1])
        for table, others in self._files.items():
            for file in others if table != EXAMPLES else ():
                lost = file.ref.examples[~np.isin(file.ref.examples, known.get(file.run, ()))]
                if len(lost) and file.ref.rows:
                    what = f"example {lost[0]} has rows here, but is none of run {file.run!r}"
                    self._found.add(Problem(what, _REMOVE, file.ref.path, commit=file.version))

    def _twice(self, run: str, ids: np.ndarray) -> None:
        what = f"example {ids[0]} of run {run!r} is there more than once ({len(ids)} are)"
        self._found.add(Problem(what, _REMOVE))


_REMOVE = "the log is whole, but was not written by lazycache: remove the run, or ask who wrote it"


def _wrong(file: PlacedTable, rows: pa.Table) -> str | None:
    """Say what is wrong with the rows of a table file; None if they are as the log says."""
    ref = file.ref
    if rows.num_rows != ref.rows:
        return f"it has {rows.num_rows:,} rows, the log recorded {ref.rows:,}"
    if set(rows.column_names) != set(ref.columns):
        return f"it has the columns {rows.column_names}, the log recorded {list(ref.columns)}"
    for name, kind in ref.columns.items():
        if kind in ARROW_TYPES and rows[name].type != ARROW_TYPES[kind]:
            return f"column {name!r} is {rows[name].type}, the log recorded {kind}"
    return _wrong_index(file, rows)


def _wrong_index(file: PlacedTable, rows: pa.Table) -> str | None:
    lacking = [name for name in INDEX_COLUMNS[file.ref.table] if name not in rows.column_names]
    if lacking:
        return f"it lacks the column {lacking[0]!r}"
    for name in INDEX_COLUMNS[file.ref.table]:
        if rows[name].null_count or not pa.types.is_integer(rows[name].type):
            return f"column {name!r} is not whole numbers throughout"
    examples, lengths = run_lengths(rows["example"].to_numpy())
    if not np.array_equal(examples, file.ref.examples) or not np.array_equal(
        lengths, file.ref.lengths
    ):
        return "its examples are not those that the log recorded"
    return None


def _index(file: PlacedTable, rows: pa.Table) -> Columns:
    return {name: rows[name].to_numpy() for name in INDEX_COLUMNS[file.ref.table]}
