"""The log, record by record and from nothing else: as far as it is whole."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from lazycache.cache.files.parallel import ordered
from lazycache.care.checks.report import Findings, Problem
from lazycache.catalog import records
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError
from lazycache.storage.layout import (
    IDENTITY,
    LOG_PREFIX,
    log_path,
    parse_log_path,
    parse_pack_path,
)
from lazycache.storage.store import Store
from lazycache.types import Commit, Identity

_READERS = 16  # records of a store in the distance that are read at a time
_DROP = "delete the checkpoints (_log/pack-*), which are made again from the records"
_COPY = (
    "copy the log again from where the dataset came from; up to the version before it the dataset "
    "can be read: lc.open(url, snapshot=...)"
)


@dataclass(frozen=True, slots=True)
class CheckedLog:
    """The log as far as it is whole."""

    commits: tuple[Commit, ...]
    """Its commits."""
    snapshot: Snapshot
    """What they make."""


def check_log(store: Store, identity: Identity, found: Findings) -> CheckedLog:
    """Read every record and replay it; what is wrong goes to `found`, what follows it is not read.

    Cost: one listing of the log and one read per commit, whatever checkpoints there are.

    Raises:
        FormatVersionError: a newer lazycache wrote a record: nothing is wrong, but unknown.
        StorageError: the store failed.
    """
    commits = _records(store, _whole(store, found), found)
    _check_once(commits, found)
    return _replayed(identity, commits, found)


def check_checkpoints(store: Store, identity: Identity, log: CheckedLog, found: Findings) -> None:
    """Compare what opening a dataset gives with its records, which checkpoints only repeat.

    Cost: opens the dataset, and loads every site of it.

    Raises:
        StorageError: the store failed.
    """
    packs = [info.path for info in store.list(LOG_PREFIX) if parse_pack_path(info.path)]
    if not packs:
        return
    with warnings.catch_warnings(record=True) as passed_over:
        warnings.simplefilter("always", RuntimeWarning)
        opened = load_snapshot(store, identity)
        # of a log that has grown meanwhile there is nothing to compare
        same = opened.version != log.snapshot.version or _files(opened) == _files(log.snapshot)
    for warning in passed_over:
        if "pack" in str(warning.message):
            found.add(Problem(str(warning.message).removesuffix("."), _DROP, packs[0]))
    if not same and not passed_over:
        what = "a checkpoint of the log leaves out or adds what its records do not"
        found.add(Problem(what, _DROP, packs[-1]))
    found.count("checkpoints", len(packs))


def _files(snapshot: Snapshot) -> list[tuple[object, ...]]:
    """Return what is read of a snapshot: its sites, and each file with its place."""
    sites: list[tuple[object, ...]] = []
    for name, site in snapshot.sites.items():
        sites += [(site, placed.ref, placed.row_start) for placed in snapshot.shards(name)]
        sites.append((site, snapshot.covered(name), 0))
    tables: list[tuple[object, ...]] = [
        (table, file.ref.path, file.row_start, file.ref.rows, file.run)
        for table in snapshot.tables
        for file in snapshot.table_files(table)
    ]
    return [*sites, *tables, *[(run.name, str(run.info), 0) for run in snapshot.runs.values()]]


def _whole(store: Store, found: Findings) -> int:
    """Return the last version up to which no record is missing."""
    listed = (parse_log_path(info.path) for info in store.list(LOG_PREFIX))
    versions = sorted(version for version in listed if version)
    missing = next((n for n, version in enumerate(versions, 1) if n != version), None)
    if missing is None:
        return len(versions)
    what = f"this record of the log is missing, {versions[missing - 1]} is there"
    found.add(Problem(what, _COPY, log_path(missing), commit=missing))
    return missing - 1


def _records(store: Store, last: int, found: Findings) -> list[Commit]:
    """Return the commits up to the first record that is damaged."""
    workers = 1 if store.local_path(IDENTITY) is not None else _READERS
    commits: list[Commit] = []

    def read(version: int) -> Commit | Problem:
        return _record(store, version, last=last)

    for version, commit in enumerate(ordered(read, range(1, last + 1), workers=workers), 1):
        if isinstance(commit, Problem):
            found.add(commit)
            break
        if not commit.txn:
            found.notes.append(f"log record {version} is torn: its writer was killed or is at work")
            if version == last:
                break
        commits.append(commit)
    found.count("commits", len(commits))
    return commits


def _record(store: Store, version: int, *, last: int) -> Commit | Problem:
    path = log_path(version)
    try:
        size = store.size(path)
        if size > records.MOST_BYTES:
            what = f"it has {size:,} bytes; a record has {records.MOST_BYTES:,} at most"
            return Problem(what, _COPY, path, commit=version)
        record = store.get(path)
    except FileNotFoundError:
        return Problem("this record of the log is missing", _COPY, path, commit=version)
    except CorruptShardError as exc:  # a link that leads out of the dataset
        return Problem(str(exc).removesuffix("."), _COPY, path, commit=version)
    if records.is_torn(record):
        return records.void(version)
    try:
        return records.decode(record, version=version)
    except CorruptShardError as exc:
        what = f"{exc} ({last - version} records follow)"
        return Problem(what, _COPY, path, commit=version)


def _check_once(commits: Sequence[Commit], found: Findings) -> None:
    """Refuse one attempt that is there twice: its rows would be, too."""
    seen: dict[str, int] = {}
    for commit in commits:
        first = seen.setdefault(commit.txn, commit.version) if commit.txn else commit.version
        if first != commit.version:
            what = f"it has the transaction of commit {first}: the same rows twice"
            path = log_path(commit.version)
            found.add(Problem(what, _COPY, path, commit=commit.version))


def _replayed(identity: Identity, commits: list[Commit], found: Findings) -> CheckedLog:
    """Replay as many commits as go together; the first that does not is a problem."""
    try:
        return CheckedLog(tuple(commits), Snapshot.replay(identity, commits))
    except FormatVersionError:
        raise
    except (StorageError, ValueError) as exc:
        good = _good(identity, commits)
        path = log_path(good + 1)
        found.add(Problem(f"{exc}", _COPY, path, commit=good + 1))
        return CheckedLog(tuple(commits[:good]), Snapshot.replay(identity, commits[:good]))


def _good(identity: Identity, commits: Sequence[Commit]) -> int:
    """Return how many commits can be replayed, by halving: an error stays with more of them."""
    low, high = 0, len(commits)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            Snapshot.replay(identity, commits[:middle])
            low = middle
        except (StorageError, ValueError):
            high = middle
    return low
