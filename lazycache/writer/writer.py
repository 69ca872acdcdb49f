"""The sink that capture fills: batches in, committed shards out, in bounded memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CaptureError, LazycacheError
from lazycache.storage.store import Store
from lazycache.types import INDEX_COLUMNS, EntryRef, RowBatch, RunInfo
from lazycache.writer.array_files import ArrayFiles
from lazycache.writer.committer import Committer, nothing_to_compare
from lazycache.writer.feed import Feed
from lazycache.writer.group import Group
from lazycache.writer.intake import Intake
from lazycache.writer.jobs import Load
from lazycache.writer.parts import Part, Place, SitePart, TablePart
from lazycache.writer.settings import Settings
from lazycache.writer.worker import Worker

_WORKERS = 4  # more only help stores that are slower than this many requests at once
_TABLE_WEIGHT = 1024  # a row of text costs about what encoding this many bytes of a site costs


@dataclass(frozen=True, slots=True)
class WriterProgress:
    """How far a writer is."""

    rows: int
    """Rows taken over, of all tables together."""
    bytes: int
    """Bytes taken over: activations and columns."""
    queued_bytes: int
    """Bytes that are not written yet; never above `queue_bytes`, but for one larger batch."""
    commits: int
    """Commits made."""
    committed_rows: int
    """Rows in them, of all tables together."""
    seconds_blocked: float
    """Seconds that `write` has waited for room: how much slower the store is than the model."""


IDLE = WriterProgress(0, 0, 0, 0, 0, 0.0)
"""Of a writer that has not begun."""


class DatasetWriter:
    """Write batches to a dataset. Implements `Sink`; may be used from several threads.

    Every writer ends with `close` or `abort`, which join its threads.

    Args:
        store: where the dataset is.
        snapshot: the newest snapshot; its sites and columns keep their types.
        run: what the rows belong to; declared with the first commit.
        notes: further descriptions that the first commit declares, of what is added to the run.
        settings: how much is queued, how much goes into a file and a commit. Peak memory is
            `queue_bytes` (or a batch that is larger), the batch that waits for room, and the
            statistics of open files: at most 2 KiB for each unit of a site.
        arrays: tensors of the model that the run keeps, by name; those that it lacks are written
            with the first commit. They must not change until then.
        entries: values beside the sites, whose files are written; the first commit names them.
        columns: types of columns by table, whatever they are in the snapshot: a reader shows a
            column of several types as one that holds them all.
        group: processes that commit together: each calls `commit` and `close` as often as the
            others, and no commit begins by itself. None commits alone.
        same_run: told what another process says of the run, if both begin it at once; it raises
            if that is another one.

    Raises:
        CaptureError: an array cannot be stored, or differs from what the run has.

    Cost: activations are handed to the store as views of the batch's tensors, never copied; they
    are read once for their CRC. `write` returns at once while there is room.

    Example:
        >>> import numpy as np, torch, tempfile
        >>> from lazycache.catalog.log import CommitLog, create_dataset
        >>> from lazycache.catalog.snapshot import Snapshot
        >>> from lazycache.storage.local_store import LocalStore
        >>> from lazycache.types import SiteBlock, TableBlock
        >>> store = LocalStore(tempfile.mkdtemp(), create=True)
        >>> identity = create_dataset(store)
        >>> settings = Settings(
        ...     queue_bytes=1 << 20, shard_bytes=1 << 20, chunk_rows=8192, commit_bytes=1 << 30,
        ...     commit_seconds=60, rank=0,
        ... )
        >>> empty, run = Snapshot.replay(identity, []), RunInfo("main", {})
        >>> writer = DatasetWriter(store, snapshot=empty, run=run, settings=settings)
        >>> rows = TableBlock(2, {"example": np.array([0, 1])})
        >>> values = SiteBlock("examples", torch.ones(2, 4))
        >>> writer.write(RowBatch({"examples": rows}, {"pooled": values}))
        >>> writer.commit()
        1
        >>> writer.close()
        >>> Snapshot.replay(identity, CommitLog(store).read()).rows("examples")
        2
    """

    def __init__(
        self,
        store: Store,
        *,
        snapshot: Snapshot,
        run: RunInfo,
        settings: Settings,
        arrays: Mapping[str, torch.Tensor] = MappingProxyType({}),
        notes: Sequence[RunInfo] = (),
        entries: Sequence[EntryRef] = (),
        columns: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
        group: Group | None = None,
        same_run: Callable[[RunInfo], None] = nothing_to_compare,
    ) -> None:
        self._settings = settings
        self._group = group
        files = ArrayFiles(arrays, run=run.name, snapshot=snapshot, store=store, rank=settings.rank)
        count = min(_WORKERS, os.cpu_count() or 1)
        self._feed = Feed(limit=settings.queue_bytes, readers=count)
        known = {
            table: {**snapshot.columns(table), **columns.get(table, {})} for table in INDEX_COLUMNS
        }
        self._intake = Intake(sites=snapshot.sites, columns=known, tiles=settings.tiles)
        self._checking = threading.Lock()
        self._worker_of: dict[tuple[bool, str], int] = {}  # (is a site, name)
        self._weights = [0] * count
        self._closed = False
        self._stopping = False
        self._workers = [
            Worker(number, feed=self._feed, store=store, settings=self._settings)
            for number in range(count)
        ]
        self._committer = Committer(
            feed=self._feed,
            log=CommitLog(store),
            snapshot=snapshot,
            runs=(run, *notes),
            arrays=files,
            entries=entries,
            specs=self._intake.specs,
            settings=self._settings,
            group=group,
            same_run=same_run,
        )
        for worker in self._workers:
            worker.start()
        self._committer.start()

    def write(self, batch: RowBatch) -> None:
        """Take a batch over: it will be committed whole or not at all.

        Blocks while the queue is full. A batch larger than the queue goes alone.

        Raises:
            CaptureError: the batch does not fit together or does not fit the dataset: nothing of
                it was taken. Or the writer was closed.
            UnsupportedDtypeError: values that cannot be stored: nothing was taken.
            LazycacheError: the first error that a thread met, again from every later call.
        """
        self._take(batch, {})

    def cover(self, batch: RowBatch, places: Mapping[str, Place]) -> None:
        """Take over values for rows that an earlier commit has added: sites added later.

        The rows of the batch itself are not stored again; they say whose values these are.

        Args:
            batch: Consecutive rows, as for `write`.
            places: Table to where its rows are; a site of another table is refused.

        Raises:
            As `write`.
        """
        lost = [f"{n} ({b.table})" for n, b in batch.sites.items() if b.table not in places]
        if lost:
            raise CaptureError(f"There are no rows that these sites could be added to: {lost}")
        self._take(batch, places)

    def _take(self, batch: RowBatch, places: Mapping[str, Place]) -> None:
        self._feed.check_open()
        with self._checking:
            parts = self._intake.parts(batch)
            if places:
                # the rows themselves are stored; only their values are new
                values = [part for part in parts if isinstance(part, SitePart)]
                parts = [replace(part, place=places[part.table]) for part in values]
            load = self._load(parts)
        if not parts:
            return
        self._feed.put(load)
        tail = self._feed.tail
        if self._group is None and tail.charged - tail.marked >= self._settings.commit_bytes:
            self._feed.mark()

    def commit(self) -> int:
        """Make all that was taken over durable and visible; return the version.

        Without new rows the newest version is returned and no record is written.
        """
        self._feed.check_open()
        return self._commit()

    def close(self) -> None:
        """Commit, and end the threads. Does nothing the second time.

        Raises:
            LazycacheError: what a thread met; what was not committed is then dropped.
        """
        if self._closed:
            self._feed.check()
            return
        self._feed.seal()
        try:
            if not self._stopping:
                self._commit()
                self._stop()
        except LazycacheError:
            self._end()
            raise
        except BaseException:  # Ctrl-C: the threads commit what there is, then end by themselves
            if self._group is None:
                self._feed.mark()
            self._stop()
            raise
        self._end()
        self._feed.check()

    def abort(self) -> None:
        """Drop what is not committed, with its files, and end the threads. Never raises ours."""
        if not self._closed:
            self._feed.fail(CaptureError("The writer was aborted: nothing more can be written."))
            self._end()

    @property
    def progress(self) -> WriterProgress:
        """How far it is. Cheap: looks at counters."""
        with self._feed.lock:
            return WriterProgress(
                rows=self._feed.tail.rows,
                bytes=self._feed.tail.charged,
                queued_bytes=self._feed.used,
                commits=self._committer.commits,
                committed_rows=self._committer.rows,
                seconds_blocked=self._feed.blocked_s,
            )

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._feed.stop()

    def _commit(self) -> int:
        transaction = self._feed.mark(empty=self._group is not None)
        return self._committer.version if transaction is None else self._feed.wait(transaction)

    def _end(self) -> None:
        for worker in self._workers:
            worker.join()
        self._committer.join()
        for worker in self._workers:
            worker.delete_leftovers()
        self._committer.delete_leftovers()
        self._closed = True

    def _load(self, parts: list[Part]) -> Load:
        by_worker: dict[int, list[Part]] = {}
        for part in parts:
            by_worker.setdefault(self._assigned(part), []).append(part)
        tables = {part.table: part.rows for part in parts if isinstance(part, TablePart)}
        nbytes = sum(part.nbytes for part in parts)
        sites = sum(is_site for is_site, _ in self._worker_of)
        return Load(parts=by_worker, nbytes=nbytes, table_rows=tables, sites=max(1, sites))

    def _assigned(self, part: Part) -> int:
        """Return the worker of a site or table: always the same, so that its rows stay in order."""
        if isinstance(part, SitePart):
            key, weight = (True, part.spec.name), part.nbytes // part.rows
        else:
            key, weight = (False, part.table), _TABLE_WEIGHT
        if key not in self._worker_of:
            lightest = min(range(len(self._weights)), key=self._weights.__getitem__)
            self._worker_of[key] = lightest
            self._weights[lightest] += weight
        return self._worker_of[key]
