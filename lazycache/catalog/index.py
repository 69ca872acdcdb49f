"""The DuckDB index of a snapshot: one immutable file per snapshot in the user's cache directory.

The log and the table files are the truth, the index is a convenience: deleting it loses nothing.
A file is built under a temporary name and renamed when it is whole, then only ever opened
read-only, so any number of processes use it at once. The next snapshot's file starts as a copy of
the last one's, so that a growing dataset does not decode its old rows again. Where no directory
can be written, the index lives in memory.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from lazycache.catalog.index_fill import fill, last_txn, quoted
from lazycache.catalog.index_rows import BASE_COLUMNS
from lazycache.catalog.quiet import hush
from lazycache.errors import CorruptShardError, LazycacheError
from lazycache.storage.cache_folder import cache_folder

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot
    from lazycache.storage.store import Store

SCHEMA = 2
"""Raised with every change of `schema.sql`: files of another schema are not used."""

KEPT_FILES = 2
"""Index files kept per dataset: the newest, and the one that a reader may be about to open."""

STALE_SECONDS = 86_400.0
"""Age at which a file that was never finished is taken for one of a killed process."""

BUILDING = "building"
"""Name under which an index is attached while it is filled."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """The index of one snapshot, on disk or to be made in memory."""

    path: Path | None
    """The finished file; None: no directory could be written, every attach builds it in memory."""
    snapshot: Snapshot
    """What it is the index of."""
    store: Store
    """Where the table files are."""

    def attach(self, connection: duckdb.DuckDBPyConnection, *, name: str) -> None:
        """Make the index's tables visible to a connection as `name.tokens`, `name.shards`, ...

        Cost: milliseconds for a file that is whole. One that is not is built again; in memory, all
        table files are read, and the caller lets nothing be written. After an error the caller
        closes the connection.

        Raises:
            CorruptShardError: a table file is damaged.
            StorageError: the store failed.
        """
        if self.path is None:
            connection.execute(f"ATTACH ':memory:' AS {quoted(name)}")
            fill(connection, name, self.snapshot, self.store, after=None)
        elif not _attached(connection, self.path, name, self.snapshot):
            again = self.rebuilt()
            if again.path is None or not _attached(connection, again.path, name, self.snapshot):
                IndexFile(None, self.snapshot, self.store).attach(connection, name=name)

    def rebuilt(self) -> IndexFile:
        """Build a damaged file again, from the table files alone; the damaged one is deleted.

        Who has it open keeps what was there. Raises as `attach` does.
        """
        if self.path is None:
            return self
        with suppress(OSError):  # where it cannot be deleted, nothing can be written either
            self.path.unlink(missing_ok=True)
        return _written(self.path, self.snapshot, self.store, grow=False)


def index_directory() -> Path | None:
    """Return where index files are kept: `$LAZYCACHE_CACHE_DIR`, else the user's cache directory.

    None where the user has no home: then the index lives in memory.

    Example:
        >>> (index_directory() or Path("index")).name
        'index'
    """
    folder = cache_folder()
    return None if folder is None else folder / "index"


def build_index(snapshot: Snapshot, store: Store, *, directory: Path | None) -> IndexFile:
    """Return the index of a snapshot, built if there is none.

    Args:
        snapshot: What to index.
        store: Where its table files are.
        directory: Folder for index files; None for the user's cache directory.

    Cost: nothing if there is a file. Otherwise the table files of the commits since the last index
    file are read, a batch at a time.

    Raises:
        CorruptShardError: a table file is damaged.
        StorageError: the store failed.
    """
    folder = directory or index_directory()
    if folder is None:
        return IndexFile(None, snapshot, store)
    path = folder / _name(snapshot, store.url)
    if path.is_file():
        return IndexFile(path, snapshot, store)
    return _written(path, snapshot, store, grow=True)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(snapshot: Snapshot, url: str) -> Path:
    # by its address too: a changed copy that keeps uuid and transactions must not answer for the
    # first one, which somebody trusts. A folder that was replaced has another last txn
    identity = f"{snapshot.identity.uuid} {last_txn(snapshot, snapshot.version)}"
    digest = hashlib.blake2s(identity.encode(), digest_size=8).hexdigest()
    place = f"{snapshot.identity.uuid} {url}"
    folder = hashlib.blake2s(place.encode(), digest_size=16).hexdigest()
    return Path(folder) / f"s{SCHEMA}-{snapshot.version:020d}-{digest}.duckdb"


def _attached(
    connection: duckdb.DuckDBPyConnection, path: Path, name: str, snapshot: Snapshot
) -> bool:
    """Attach a file read-only; False, and nothing attached, if it is not this snapshot's index."""
    try:
        connection.execute(f"ATTACH {_text(str(path))} AS {quoted(name)} (READ_ONLY)")
    except duckdb.Error:  # of another DuckDB, damaged, not an index, gone
        return False
    if _made_of(connection, name, snapshot, version=snapshot.version):
        return True
    connection.execute(f"DETACH {quoted(name)}")
    return False


def _made_of(
    connection: duckdb.DuckDBPyConnection, name: str, snapshot: Snapshot, *, version: int
) -> bool:
    """Say whether an attached index is the one of this snapshot's first commits."""
    try:
        query = f"SELECT uuid, version, txn FROM {quoted(name)}.index_of"  # noqa: S608 - quoted
        found = connection.execute(query).fetchall()
    except duckdb.Error:  # damaged, or the index of something else
        return False
    return found == [(snapshot.identity.uuid, version, last_txn(snapshot, version))]


def _written(path: Path, snapshot: Snapshot, store: Store, *, grow: bool) -> IndexFile:
    """Build an index file; where it cannot be written, the index is one in memory.

    With `grow` it starts as a copy of an earlier one, if there is one and it is whole.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (grow and _grown(path, snapshot, store)):
            _build(path, snapshot, store, older=None)
        _prune(path)
    except LazycacheError:
        raise
    except (OSError, duckdb.Error):
        # the cache directory cannot be written or is full, at any point of a transaction of DuckDB:
        # a convenience is missing, no data. What is wrong with the data is said by memory's index
        return IndexFile(None, snapshot, store)
    return IndexFile(path, snapshot, store)


def _grown(path: Path, snapshot: Snapshot, store: Store) -> bool:
    """Build an index file from an earlier one; False if there is none, or it is damaged."""
    older = _last(path, snapshot)
    if older is None:
        return False
    try:
        _build(path, snapshot, store, older=older)
    except (duckdb.Error, CorruptShardError):  # of the copy, or of a table file: a whole build says
        return False
    return True


def _build(path: Path, snapshot: Snapshot, store: Store, *, older: tuple[Path, int] | None) -> None:
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    after = None
    try:
        if older is not None:
            source, after = older
            shutil.copyfile(source, temporary)
        with duckdb.connect(":memory:", config={"temp_directory": ""}) as connection:
            connection.execute("SET python_enable_replacements = false")
            hush(connection)
            connection.execute(f"ATTACH {_text(str(temporary))} AS {BUILDING}")
            fill(connection, BUILDING, snapshot, store, after=after)
            connection.execute(f"CHECKPOINT {BUILDING}")
            connection.execute(f"DETACH {BUILDING}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        temporary.with_name(temporary.name + ".wal").unlink(missing_ok=True)


def _last(path: Path, snapshot: Snapshot) -> tuple[Path, int] | None:
    """Return the newest index of an earlier version of the same commits, and its version."""
    for older in sorted(path.parent.glob(f"s{SCHEMA}-*.duckdb"), reverse=True):
        version = int(older.name.split("-")[1])
        if (
            snapshot.rewritten <= version <= snapshot.version
            and _same_types(snapshot, version)
            and _is_index_of(older, snapshot, version)
        ):
            return older, version
    return None


def _is_index_of(path: Path, snapshot: Snapshot, version: int) -> bool:
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            database = path.stem
            return _made_of(connection, database, snapshot, version=version)
    except duckdb.Error:  # of another DuckDB, damaged
        return False


def _same_types(snapshot: Snapshot, version: int) -> bool:
    """Say whether no column has become another type since a version (int64 -> float64)."""
    now = {table: snapshot.columns(table) for table in BASE_COLUMNS}
    return all(
        now[table][column] == kind
        for table in BASE_COLUMNS
        for file in snapshot.table_files(table)
        if file.version <= version
        for column, kind in file.ref.columns.items()
    )


def _prune(path: Path) -> None:
    """Delete what the newest files replace, and what a killed process left behind."""
    # never the one just made: the clock may have gone back since the others were
    others = sorted(set(path.parent.glob("s*.duckdb")) - {path}, key=_modified)
    for old in others[: 1 - KEPT_FILES]:
        old.unlink(missing_ok=True)
    for left in path.parent.glob(".*.tmp*"):
        if time.time() - _modified(left) > STALE_SECONDS:
            left.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process pruned it first
        return 0.0
