"""The log of a dataset as it is copied: record by record, or what is left of it of some sites."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from lazycache.care.checked_files import CheckedFile, needed_files
from lazycache.catalog import checkpoints, records
from lazycache.catalog.identity import encode_identity, read_identity, refuse_foreign
from lazycache.errors import (
    CorruptShardError,
    DatasetExistsError,
    DatasetNotFoundError,
    StorageError,
)
from lazycache.storage.layout import IDENTITY, LOG_PREFIX, log_path, parse_log_path
from lazycache.storage.store import Store
from lazycache.types import Commit, Drop, Identity, RunInfo

COPIED_FROM = "copied_from"
"""Key of the information of a run: of which dataset it is a part."""

_PARALLEL_GETS = 16
_SELECTIONS = uuid.UUID("6b0c1c1e-6a0f-5b52-9a6f-0c3c0f4a2d11")  # names of parts of datasets


@dataclass(frozen=True, slots=True)
class Copy:
    """A dataset as it will be at its new place."""

    identity: Identity
    """What it is called."""
    encoded: bytes
    """Its identity as a file."""
    log: Sequence[bytes]
    """Its records in order."""
    commits: Sequence[Commit]
    """What they say."""

    @property
    def files(self) -> dict[str, CheckedFile]:
        """The files that it needs, by path."""
        return needed_files(self.identity, self.commits)


def whole(source: Store) -> Copy:
    """Return a dataset as it is: every record byte for byte. Reads the log.

    Raises:
        DatasetNotFoundError: there is none.
        CorruptShardError: its log is damaged.
    """
    identity = read_identity(source)
    log = _read_log(source)
    commits = [_decoded(record, version) for version, record in enumerate(log, 1)]
    return Copy(identity, source.get(IDENTITY), log, commits)


def part(of: Copy, sites: Collection[str], values: Collection[str]) -> Copy:
    """Return some stored sites of a dataset, with all rows, and some of the values beside them.

    Versions and rows keep their numbers. The name of the dataset follows from what it is a part of
    and from which part, so that a copy that was interrupted is recognised.

    Args:
        of: The dataset.
        sites: Those that are kept, also computed ones, whose source is kept too.
        values: Names of values that are kept.
    """
    chosen = sorted({*sites, *values})
    name = uuid.uuid5(_SELECTIONS, json.dumps([of.identity.uuid, chosen]))
    identity = replace(of.identity, uuid=str(name))
    note = {"dataset": of.identity.uuid, "sites": chosen}
    commits = [_filtered(commit, set(sites), set(values), note) for commit in of.commits]
    log = [
        records.encode(commit) if commit.txn else raw
        for commit, raw in zip(commits, of.log, strict=True)
    ]
    return Copy(identity, encode_identity(identity), log, commits)


def _filtered(
    commit: Commit, sites: set[str], values: set[str], note: Mapping[str, object]
) -> Commit:
    return replace(
        commit,
        runs=tuple(RunInfo(r.name, {**r.info, COPIED_FROM: note}) for r in commit.runs),
        sites=tuple(spec for spec in commit.sites if spec.name in sites),
        shards=tuple(shard for shard in commit.shards if shard.site in sites),
        arrays=tuple(a for a in commit.arrays if a.name.removesuffix(".weight") in sites),
        entries=tuple(entry for entry in commit.entries if entry.name in values),
        drops=tuple(drop for drop in commit.drops if _is_kept(drop, sites)),
    )


def _is_kept(drop: Drop, sites: set[str]) -> bool:
    return drop.site is None or drop.site in sites


def _read_log(source: Store) -> list[bytes]:
    """Return the records in order, without one at the end that is being written."""
    found = (parse_log_path(info.path) for info in source.list(LOG_PREFIX))
    last = max((version for version in found if version), default=0)
    with ThreadPoolExecutor(_PARALLEL_GETS) as pool:
        log = list(pool.map(lambda version: _record(source, version), range(1, last + 1)))
    if log and records.is_torn(log[-1]):
        log.pop()
    return log


def _record(source: Store, version: int) -> bytes:
    try:
        return source.get(log_path(version))
    except FileNotFoundError as exc:
        raise CorruptShardError(
            f"Log record {version} of {source.url} is missing, but later ones are there. Copy from "
            "where the dataset came from."
        ) from exc


def _decoded(record: bytes, version: int) -> Commit:
    if records.is_torn(record):
        return records.void(version)
    return records.decode(record, version=version)


def is_there(identity: Identity, target: Store, *, resume: bool) -> bool:
    """Say whether a place is the dataset of this name already. Writes nothing.

    Raises:
        DatasetExistsError: it holds another dataset, or other files; or this one, and an earlier
            copy is not to be gone on with.
    """
    try:
        there = read_identity(target)
    except DatasetNotFoundError:
        refuse_foreign(target)
        return False
    if there.uuid != identity.uuid:
        raise DatasetExistsError(
            f"{target.url} holds another dataset ({there.uuid}) than the one that is copied "
            f"({identity.uuid}): choose another address."
        )
    if not resume:
        raise DatasetExistsError(
            f"{target.url} already holds this dataset: resume=True copies what it lacks."
        )
    return True


def records_there(copy: Copy, target: Store) -> int:
    """Return how many records of a copy a place has that is the dataset already.

    Raises:
        DatasetExistsError: it is at a later version, or went its own way.
    """
    versions = (parse_log_path(info.path) for info in target.list(LOG_PREFIX))
    last = max((version for version in versions if version), default=0)
    if last > len(copy.log):
        raise DatasetExistsError(
            f"{target.url} holds this dataset at version {last}; version {len(copy.log)} is to be "
            "copied. Commits that were made there are never removed: choose another address."
        )
    if last:
        _check_record(target, last, copy.log[last - 1])
    return last


def _check_record(target: Store, version: int, record: bytes) -> None:
    there = b""
    with suppress(FileNotFoundError):
        there = target.get(log_path(version))
    if there != record:
        raise DatasetExistsError(
            f"{target.url} holds a copy of this dataset that went its own way: its commit "
            f"{version} is another one. Choose another address."
        )


def publish(copy: Copy, target: Store, *, have: int) -> None:
    """Make the target the dataset, whose files are there: its identity, then record by record.

    Who opens it meanwhile sees an older version. What a killed call has left is gone on with. Packs
    of the log are no part of a dataset: of a long log a new one is made.

    Raises:
        DatasetExistsError: somebody else writes to the target at the same time.
        StorageError: the store failed.
    """
    _put_new(target, IDENTITY, copy.encoded)
    for version, record in enumerate(copy.log[have:], have + 1):
        _put_new(target, log_path(version), record)
    if len(copy.log) - have >= checkpoints.EVERY:
        checkpoints.checkpoint(target)


def _put_new(target: Store, path: str, data: bytes) -> None:
    """Write an object unless there is one; the same bytes are as good.

    A copy has one writer, so a store that cannot say which of several is first will do.
    """
    try:
        created = target.put_if_absent(path, data)
    except StorageError:
        if target.exists(path):
            created = False
        else:
            target.put(path, data)
            created = True
    if not created and target.get(path) != data:
        raise DatasetExistsError(
            f"Another process has written {path!r} to {target.url} meanwhile: choose an address "
            "that nobody else writes to."
        )
