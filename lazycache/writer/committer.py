"""A thread that appends finished transactions to the log, and begins them when it is time."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, time

import numpy as np

from lazycache.catalog.checkpoints import after_commit
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CommitConflictError
from lazycache.types import EXAMPLES, ArrayRef, Commit, EntryRef, RunInfo, SiteSpec
from lazycache.writer.array_files import ArrayFiles
from lazycache.writer.feed import Feed
from lazycache.writer.group import Group
from lazycache.writer.jobs import Job, Mark, Stop
from lazycache.writer.settings import Settings
from lazycache.writer.shared_commit import commit_shared
from lazycache.writer.transaction import Transaction


def nothing_to_compare(_: RunInfo) -> None:
    """Take whatever another process says of a run that both have begun at once."""


class Committer:
    """Commits in the order of the marks, one at a time, while workers go on with later batches."""

    def __init__(
        self,
        *,
        feed: Feed,
        log: CommitLog,
        snapshot: Snapshot,
        runs: Sequence[RunInfo],
        arrays: ArrayFiles,
        specs: Callable[[], Mapping[str, SiteSpec]],
        settings: Settings,
        entries: Sequence[EntryRef] = (),
        group: Group | None = None,
        same_run: Callable[[RunInfo], None] = nothing_to_compare,
    ) -> None:
        self._feed = feed
        self._group = group
        self._same_run = same_run
        self._beginning = settings.session  # until a commit has said so
        self._log = log
        self._name = runs[0].name
        self._dataset = snapshot.identity
        self._undeclared = tuple(run for run in runs if run.name not in snapshot.runs)
        self._arrays = arrays
        self._entries = tuple(entries)
        self._sites_declared = set(snapshot.sites)
        self._since = time()  # no file of what is to be committed is older
        self._specs = specs
        self._settings = settings
        self.version = snapshot.version
        """The newest version that is known."""
        self.commits = 0
        """Log records written."""
        self.rows = 0
        """Rows of tables in them."""
        # a daemon: a process that ends on an exception must not wait for a slow store
        self._thread = threading.Thread(target=self._run, name="lazycache-committer", daemon=True)

    def start(self) -> None:
        """Begin to wait for transactions."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        while self._thread.is_alive():
            self._thread.join(1.0)  # in steps: some platforms cannot interrupt an endless one

    def delete_leftovers(self) -> None:
        """Delete the files that no log record can name. The thread has ended."""
        self._arrays.delete_leftovers()

    def _run(self) -> None:
        try:
            self._walk(self._feed.root)
        except BaseException as error:  # noqa: BLE001 - a thread carries any error to its callers
            self._feed.fail(error)

    def _walk(self, job: Job) -> None:
        while (after := self._next(job)) is not None:
            job = after
            if isinstance(job, Mark):
                self._commit(job.transaction)
            elif isinstance(job, Stop):
                return

    def _next(self, job: Job) -> Job | None:
        """Wait for the next job, and make one when the oldest uncommitted row is old enough."""
        with self._feed.lock:
            while job.next is None and not self._feed.failed:
                since = None if self._group is not None else self._feed.tail.since
                wait_s = None if since is None else since + self._settings.commit_seconds
                if wait_s is not None and (wait_s := wait_s - monotonic()) <= 0:
                    self._feed.mark()
                else:
                    self._feed.pause(wait_s)
            return None if self._feed.failed else job.next

    def _commit(self, transaction: Transaction) -> None:
        arrays = self._arrays.write(transaction)  # while the workers are still writing
        if not self._gathered(transaction):
            return
        draft = self._draft(transaction, arrays)
        if self._group is None:
            version = self._append(draft, self._specs().values())
        else:
            version = commit_shared(self._group, draft, self._append_new)
        self._since = transaction.made
        with self._feed.lock:
            self.commits += version != self.version
            self.version = transaction.version = version
            self.rows = transaction.rows
            self._feed.changed.notify_all()

    def _append_new(self, draft: Commit) -> int:
        """Write the record of all processes, if there is anything to say."""
        sites = draft.sites
        new = tuple(site for site in sites if site.name not in self._sites_declared)
        draft = replace(draft, sites=new)
        said = (draft.tables, draft.shards, draft.arrays, draft.sites, draft.runs)
        return self._append(draft, sites) if any(said) else self.version

    def _append(self, draft: Commit, sites: Collection[SiteSpec]) -> int:
        # what others commit meanwhile is checked: sites by the log, the rest here
        written = self._log.append(
            draft,
            base=self.version,
            validate=lambda theirs: self._checked(draft, theirs, sites),
            dataset=self._dataset,
            since=self._since,
        )
        self._undeclared = ()
        self._entries = ()
        self._beginning = None
        self._sites_declared.update(spec.name for spec in written.sites)
        after_commit(self._log.store, written.version)
        return written.version

    def _checked(self, draft: Commit, theirs: Commit, sites: Collection[SiteSpec]) -> Commit | None:
        """Look at what others have committed; return what is to be committed in place of a draft.

        Sites that only a removed run had are gone with it: all are declared again.
        """
        declared = {run.name: run for run in theirs.runs}
        for run in draft.runs:
            if run.name in declared:
                self._same_run(declared[run.name])
        _check_examples(draft, theirs)
        if not theirs.removed:
            return None
        self._sites_declared.clear()
        return replace(draft, sites=tuple(sorted(sites, key=lambda site: site.name)))

    def _gathered(self, transaction: Transaction) -> bool:
        """Wait for the workers; from True on a log record may exist."""
        with self._feed.lock:
            while transaction.waiting and not self._feed.failed:
                self._feed.pause()
            transaction.attempted = not self._feed.failed
            return transaction.attempted

    def _draft(self, transaction: Transaction, arrays: Sequence[ArrayRef]) -> Commit:
        files = transaction.files
        specs = self._specs()
        # also a site that has no row yet: it exists, of no length; to a group all are told
        new = specs.keys() - (self._sites_declared if self._group is None else set())
        return Commit(
            version=self.version + 1,
            txn=transaction.txn,
            writer=f"{platform.node()}:{os.getpid()}:r{self._settings.rank}",
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            run=self._name,
            runs=self._undeclared,
            sites=tuple(specs[name] for name in sorted(new)),
            tables=tuple(sorted(files.tables, key=lambda ref: (ref.table, ref.row_start))),
            shards=tuple(sorted(files.shards, key=lambda ref: (ref.site, ref.row_start))),
            arrays=tuple(arrays),
            entries=self._entries,
            session=self._beginning,
            writer_session=self._settings.session,
        )


def _check_examples(ours: Commit, theirs: Commit) -> None:
    """Refuse to add an example that another writer of the same run has just added."""
    if ours.run != theirs.run:
        return
    mine, others = (
        np.concatenate(
            [np.empty(0, np.int64), *(t.examples for t in commit.tables if t.table == EXAMPLES)]
        )
        for commit in (ours, theirs)
    )
    both = np.intersect1d(mine, others)
    if len(both):
        raise CommitConflictError(
            f"Another writer of run {ours.run!r} has committed example {both[0]} (and "
            f"{len(both) - 1} more of these) meanwhile: ids are unique within a run. Give each "
            "process a run of its own, run='name', or ids of its own."
        )
