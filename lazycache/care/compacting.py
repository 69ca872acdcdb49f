"""`lc.compact`: many small files become few large ones, while others read and write."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lazycache.care.compacting_files import discard, merge_shards, merge_tables, paths_of
from lazycache.care.compacting_plan import ShardMerge, TableMerge, shard_merges, table_merges
from lazycache.care.drafts import Dataset, draft
from lazycache.catalog.checkpoints import EVERY, checkpoint
from lazycache.catalog.name_patterns import matching
from lazycache.codec.tiles import tile_of
from lazycache.errors import (
    CommitConflictError,
    LazycacheError,
    SelectionError,
    SiteNotFoundError,
    nearest,
)
from lazycache.progress import Bar, bytes_text, progress_bar
from lazycache.storage.open_store import Url, open_store
from lazycache.types import Drop, ShardRef, TableFileRef

SHARD_BYTES = 256 << 20
"""Bytes that a shard has at most, if nothing else is asked for."""

COMMIT_BYTES = 1 << 30
"""Bytes of files that are written between two commits, and maybe lost to a kill."""

_COMMIT_FILES = 10_000  # replaced by one commit: its record has a path for each
_ATTEMPTS = 8  # lost to others who replace the same files, in a row


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was merged."""

    version: int
    """The version that reads from the merged files; the newest one if nothing was to do."""
    commits: int
    """Commits made."""
    replaced: int
    """Files that are no longer read: shards, their statistics and table files. `gc` deletes them
    when nobody can be reading them any more."""
    written: int
    """Files that are read in their place."""
    bytes: int
    """Bytes of the shards and table files that were written."""


def compact(
    url: Url,
    *,
    sites: str | Iterable[str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    layout: str | None = None,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Compacted:
    """Merge small files of a dataset into large ones; every row keeps its number and its bytes.

    Neighbouring shards of a site, and files of a table, become one where they are of one run.
    Chunks are copied byte for byte and checked on the way; small ones become larger ones. Others
    may read and write meanwhile: what they have open stays readable until `gc` deletes what was
    replaced. Killed at any moment, nothing is lost; called again, it goes on.

    Args:
        url: Folder or URL of the dataset.
        sites: Names or patterns of the sites to merge; None: all, and the tables.
        shard_bytes: Bytes that a merged shard has at most. One that has half of them is left alone.
        layout: `"tile:64"` (or another number of units) writes rows in tiles, so that a few units
            of many rows are few bytes; `"row"` writes tiles as rows; None keeps what each shard
            has. Sites that are ragged or no wider than a tile stay in rows.
        progress: Show a bar where a person can see it.
        storage_options: Handed to fsspec.

    Cost: reads what is merged once and writes it once, some 16 requests at a time; the disk holds
    both until `gc`. Memory: up to 200 MB. A commit for every GiB.

    Raises:
        DatasetNotFoundError: there is no dataset.
        SiteNotFoundError: a name or pattern matches no site.
        CaptureError: no such layout.
        SelectionError: `shard_bytes` is no positive whole number.
        CorruptShardError: a file differs from what was written; it stays as it is.
        CommitConflictError: others replaced the same files again and again.
        StorageError: the store failed.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0") as run:
        ...     for _ in range(3):
        ...         _ = model(torch.ones(4, 2))
        ...         _ = run.commit()
        >>> done = lc.compact(url)
        >>> done.version, done.replaced, done.written
        (4, 6, 2)
        >>> lc.open(url)["0:out"].rows.shape
        torch.Size([12, 3])
    """
    if type(shard_bytes) is not int or shard_bytes < 1:
        raise SelectionError(f"shard_bytes must be a positive whole number, not {shard_bytes!r}.")
    if layout is not None:
        tile_of(layout)
    store = open_store(url, create=False, storage_options=storage_options)
    dataset = Dataset.read(store)
    wanted = None if sites is None else _named(sites, dataset)
    plan = _Plan(wanted, shard_bytes, layout)
    total = sum(merge.nbytes for merge in plan.merges(dataset))
    with progress_bar("compact", total=total, unit=" bytes", show=progress) as bar:
        done = _Compaction(dataset, plan, bar).run()
    if done.commits and done.version >= EVERY:
        _pack(dataset)
    return done


def _pack(dataset: Dataset) -> None:
    """Pack the log, so that what was replaced is not read at each opening."""
    try:
        checkpoint(dataset.store)
    except LazycacheError as exc:  # a pack is a hint: what was merged is committed
        warnings.warn(
            f"{dataset.store.url} is compacted, but its log could not be packed: {exc}",
            RuntimeWarning,
            stacklevel=3,
        )


def _named(sites: str | Iterable[str], dataset: Dataset) -> list[str]:
    """Return the sites that patterns mean, each once."""
    known, found = dataset.snapshot.sites, []
    for pattern in [sites] if isinstance(sites, str) else sites:
        names = matching(pattern, known)
        if not names:
            raise SiteNotFoundError(f"No site matches {pattern!r}. {nearest(pattern, known)}")
        found += names
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked for."""

    sites: Sequence[str] | None
    shard_bytes: int
    layout: str | None

    def merges(self, dataset: Dataset) -> Iterator[ShardMerge | TableMerge]:
        """Yield what is to be done in a dataset as it is now."""
        snapshot = dataset.snapshot
        for table in snapshot.tables if self.sites is None else ():
            yield from table_merges(snapshot, table)
        for name in snapshot.sites if self.sites is None else self.sites:
            if name in snapshot.sites:  # else it went with the run that was removed
                yield from shard_merges(
                    snapshot,
                    snapshot.sites[name],
                    shard_bytes=self.shard_bytes,
                    layout=self.layout,
                )


@dataclass(slots=True)
class _Batch:
    """Merges that become one commit."""

    shards: list[ShardRef] = field(default_factory=list)
    tables: list[TableFileRef] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    replaced: int = 0
    attempted: bool = False  # a log record may name its files
    since: float = field(default_factory=time.time)  # no file of it is older

    @property
    def bytes(self) -> int:
        lengths = [ref.length for ref in self.shards] + [ref.length for ref in self.tables]
        return sum(lengths)

    @property
    def is_full(self) -> bool:
        return self.bytes >= COMMIT_BYTES or self.replaced >= _COMMIT_FILES

    @property
    def paths(self) -> list[str]:
        return list(paths_of([*self.shards, *self.tables]))


class _Compaction:
    """Carries a plan out, commit by commit."""

    def __init__(self, dataset: Dataset, plan: _Plan, bar: Bar) -> None:
        self._dataset, self._plan, self._bar = dataset, plan, bar
        self._commits = self._replaced = self._written = self._bytes = 0
        self._version = dataset.snapshot.version

    def run(self) -> Compacted:
        """Merge until there is nothing left to merge of what was there at the beginning."""
        lost = 0
        while True:
            before = self._commits
            try:
                self._merge_all()
            except CommitConflictError:
                lost = 1 if self._commits > before else lost + 1
                if lost >= _ATTEMPTS:
                    raise
                self._dataset.refresh()  # who was faster has done a part of it
            else:
                return Compacted(
                    self._version, self._commits, self._replaced, self._written, self._bytes
                )

    def _merge_all(self) -> None:
        batch = _Batch()
        try:
            for merge in self._plan.merges(self._dataset):
                self._merge(merge, batch)
                if batch.is_full:
                    batch = self._commit(batch)
            if batch.drops:
                batch = self._commit(batch)
        except BaseException:
            if not batch.attempted:
                discard(self._dataset.store, batch.paths)
            raise

    def _merge(self, merge: ShardMerge | TableMerge, batch: _Batch) -> None:
        store = self._dataset.store
        self._bar.note(merge.site.name if isinstance(merge, ShardMerge) else merge.table)
        if isinstance(merge, TableMerge):
            batch.tables.append(merge_tables(merge, store))
            batch.drops.append(Drop(None, merge.table, tuple(f.ref.path for f in merge.files)))
            batch.replaced += len(merge.files)
            self._bar.advance(merge.nbytes)
            return
        written = merge_shards(merge, store, shard_bytes=self._plan.shard_bytes, bar=self._bar)
        batch.shards += written
        refs = [shard.ref for shard in merge.shards]
        batch.drops.append(Drop(merge.site.name, None, tuple(ref.path for ref in refs)))
        batch.replaced += sum(1 for _ in paths_of(refs))

    def _commit(self, batch: _Batch) -> _Batch:
        """Make what is written part of the dataset; return the next, empty batch."""
        commit = draft(
            shards=tuple(batch.shards), tables=tuple(batch.tables), drops=tuple(batch.drops)
        )
        batch.attempted = True
        try:
            self._version = self._dataset.commit(commit, since=batch.since).version
        except CommitConflictError:
            batch.attempted = False
            raise
        self._commits += 1
        self._replaced += batch.replaced
        self._written += len(batch.paths)
        self._bytes += batch.bytes
        self._bar.note(f"{bytes_text(self._bytes)} in {self._commits} commits")
        return _Batch()
