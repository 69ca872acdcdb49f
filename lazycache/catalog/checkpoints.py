"""When packs of the log are written, and which.

Who commits a version that is a multiple of 100 packs the last 100 commits; of a multiple of 1000,
the last 1000, mostly out of smaller packs; and so on. So a record is packed again as often as its
log has digits. A pack is a hint: it may be missing, it may be deleted, and two processes that write
the same one write the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

from lazycache.catalog.chains import Segment
from lazycache.catalog.identity import read_identity
from lazycache.catalog.loading import Packs
from lazycache.catalog.log import CommitLog
from lazycache.catalog.pack_writing import Records, Source, encode_pack
from lazycache.catalog.packs import Pack
from lazycache.errors import LazycacheError
from lazycache.storage.layout import pack_path, parse_pack_path
from lazycache.storage.store import Store

EVERY = 100
"""Commits of the smallest pack that writers make."""

_TIMES = 10  # how many times as many the next larger one has
_MOST_RECORDS = 1000  # that a writer reads for a pack: it has rows to write
_SOME = 500  # records in memory at once


def after_commit(store: Store, version: int) -> str | None:
    """Pack the log if it is time, after the commit of a version; return the path of the pack.

    Costs nothing for 99 of 100 versions; else a listing of the log, the records that are in no
    pack, and one write. An error is told in a `RuntimeWarning`: the commit is there all the same.
    """
    if version % EVERY:
        return None
    size = EVERY
    while version % (size * _TIMES) == 0:
        size *= _TIMES
    try:
        return _pack(store, version - size + 1, version, most=_MOST_RECORDS)
    except (LazycacheError, FileNotFoundError) as exc:
        warnings.warn(
            f"The commit is there, but the log could not be packed: {exc}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def checkpoint(store: Store) -> str | None:
    """Pack the whole log into one; return its path, None of a log of less than two commits.

    What has replaced many files, or copied a dataset, does this once. Costs a listing, one read for
    each pack and for each record that is in none, and one write; memory for the pack and for the
    files of one site.

    Raises:
        CorruptShardError: a record is damaged, or names a file in a folder of others.
        StorageError: the store failed.
    """
    last = len(CommitLog(store).contents().sizes)
    return _pack(store, 1, last, most=None) if last > 1 else None


def outdated_packs(paths: Iterable[str]) -> list[str]:
    """Return the packs among some paths whose commits are all in another one of them.

    Readers no longer choose these: who cleans up may delete them, after a while.

    Example:
        >>> outdated_packs([pack_path(1, 100), pack_path(1, 1000), pack_path(901, 1100)])
        ['_log/pack-00000000000000000001-00000000000000000100.json']
    """
    spans = [span for path in paths if (span := parse_pack_path(path)) is not None]
    inside = [
        (first, last)
        for first, last in spans
        if any(a <= first and last <= b and (a, b) != (first, last) for a, b in spans)
    ]
    return [pack_path(*span) for span in inside]


def _pack(store: Store, first: int, last: int, *, most: int | None) -> str | None:
    log = CommitLog(store)
    uuid = read_identity(store).uuid
    packs = Packs(store, log, uuid=uuid, contents=log.contents())
    plan = packs.plan(first, last)
    if [(one.first, one.last) for one, _, _ in plan if one is not None] == [(first, last)]:
        return pack_path(first, last)  # a slower writer of a later commit has made it
    unread = sum(stop - start + 1 for one, start, stop in plan if one is None)
    if most is not None and unread > most:
        first = last - EVERY + 1
        plan = packs.plan(first, last)
    sources = [source for one in plan for source in _sources(log, *one)]
    store.put(pack_path(first, last), encode_pack(sources, uuid=uuid))
    return pack_path(first, last)


def _sources(log: CommitLog, pack: Pack | None, first: int, last: int) -> Iterator[Source]:
    """Yield what some commits are packed from."""
    if pack is not None:
        yield Segment(pack, first, last)
        return
    found = Records(first)
    for start in range(first, last + 1, _SOME):
        for record in log.records(start, min(last, start + _SOME - 1)):
            found.add(record)
    yield found
