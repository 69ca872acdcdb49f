"""The queue between the callers and the workers, and the byte budget that bounds it.

Jobs form one linked list that every worker walks at its own pace, so all see batches and commit
marks in the same order. A job is published by one assignment: an interrupt (Ctrl-C) in the middle
of a call leaves a batch queued whole or not at all. What callers count is derived from the last job
of the list, for the same reason.

The budget is charged when a batch is published and freed when its bytes are written. Rows that wait
in open chunks for more rows still hold their share; when that is all that blocks a caller, a
`Flush` job makes the workers write them.
"""

from __future__ import annotations

import threading
from time import monotonic
from types import TracebackType

from lazycache.errors import CaptureError, LazycacheError, StorageError
from lazycache.writer.heap import trim
from lazycache.writer.jobs import Batch, Flush, Job, Load, Mark, Stop
from lazycache.writer.transaction import Files, Transaction

_PATIENCE_S = 1.0  # no wait is longer: a signal or a notification that was missed costs a second

_TRIM_BYTES = 16 << 20  # less is not worth the 2 ms


class Feed:
    """The list, the budget and the first error, under one lock.

    Args:
        limit: bytes that may be queued or held by open chunks.
        readers: workers that walk the list.
    """

    def __init__(self, *, limit: int, readers: int) -> None:
        self.lock = threading.RLock()
        """Guards everything here and every transaction.

        Taken itself, not through `changed`: the `with` of a lock cannot be interrupted between
        taking it and knowing that it has to be given back, that of a condition can.
        """
        self.changed = threading.Condition(self.lock)
        """Notified at every change."""
        self.root = Job()
        """Where a reader starts."""
        self.blocked_s = 0.0
        """Seconds that callers have waited for room."""
        self._limit = limit
        self._tail = self.root
        self._at = [self.root] * readers
        self._turn = threading.Lock()
        self._freed = 0
        self._untrimmed = 0
        self._sealed = False
        self._error: LazycacheError | None = None
        self._where: TracebackType | None = None

    def pause(self, seconds: float | None = None) -> None:
        """Wait, with the lock held, for a change; at most that long. May return early."""
        self.changed.wait(_PATIENCE_S if seconds is None else min(seconds, _PATIENCE_S))

    @property
    def tail(self) -> Job:
        """The last job."""
        while self._tail.next is not None:
            self._tail = self._tail.next
        return self._tail

    @property
    def used(self) -> int:
        """Bytes that are queued or held by open chunks."""
        return self.tail.charged - self._freed

    def put(self, load: Load) -> None:
        """Publish a batch; wait first until it fits, or until nothing else is queued."""
        with self._turn:  # callers in order: a large batch is not overtaken for ever by small ones
            self._wait_for_room(load.nbytes)
            with self.lock:
                self.check_open()
                tail = self.tail
                self._publish(
                    Batch(
                        load=load,
                        charged=tail.charged + load.nbytes,
                        rows=tail.rows + sum(load.table_rows.values()),
                        marked=tail.marked,
                        since=monotonic() if tail.since is None else tail.since,
                        last=tail.last,
                    )
                )

    def mark(self, *, empty: bool = False) -> Transaction | None:
        """Close the batches since the last mark as one transaction; return the newest there is.

        `empty` makes one also if there is no batch.
        """
        with self.lock:
            self.check()
            tail = self.tail
            if tail.since is None and not empty:
                return tail.last
            new = Transaction(waiting=len(self._at), rows=tail.rows)
            self._publish(
                Mark(
                    transaction=new,
                    charged=tail.charged,
                    rows=tail.rows,
                    marked=tail.charged,
                    last=new,
                )
            )
            return new

    def seal(self) -> None:
        """Take no more batches: what is accepted after the last commit would be lost."""
        with self.lock:
            self._sealed = True
            self.changed.notify_all()

    def check_open(self) -> None:
        """Raise unless batches are taken."""
        self.check()
        if self._sealed:
            raise CaptureError("The writer is closed: open the dataset for writing again.")

    def stop(self) -> None:
        """Publish the end: readers return when they reach it."""
        with self.lock:
            tail = self.tail
            self._publish(
                Stop(charged=tail.charged, rows=tail.rows, marked=tail.marked, last=tail.last)
            )

    def follow(self, job: Job, *, reader: int) -> Job | None:
        """Say that a reader is done with `job`; return the next one, or None after an error."""
        with self.lock:
            self._at[reader] = job
            if job.next is None:
                self.changed.notify_all()  # somebody may wait for the readers to be done
            while job.next is None and self._error is None:
                self.pause()
            return job.next if self._error is None else None

    def hand_over(self, transaction: Transaction, files: Files) -> None:
        """Give a worker's files of a transaction to it."""
        with self.lock:
            transaction.files.add(files)
            transaction.waiting -= 1
            self.changed.notify_all()

    def wait(self, transaction: Transaction) -> int:
        """Wait until a transaction is committed; return its version."""
        with self.lock:
            while transaction.version is None:
                self.check()
                self.pause()
            return transaction.version

    def free(self, nbytes: int) -> None:
        """Say that bytes were written and are no longer held."""
        with self.lock:
            self._untrimmed += nbytes
            if due := self._untrimmed >= max(self._limit // 4, _TRIM_BYTES):
                self._untrimmed = 0
        if due:  # before anybody fills the room: or memory grows far above what is in use
            trim()
        with self.lock:
            self._freed += nbytes
            self.changed.notify_all()

    def has_room(self, nbytes: int) -> bool:
        """Whether a batch may be queued now. One larger than the limit goes alone."""
        return self.used <= 0 or self.used + nbytes <= self._limit

    def fail(self, error: BaseException) -> None:
        """Keep the first error; from now on every call raises it and readers end."""
        with self.lock:
            if self._error is None:
                self._error = _ours(error)
                self._where = self._error.__traceback__
            self.changed.notify_all()

    @property
    def failed(self) -> bool:
        """Whether there was an error."""
        return self._error is not None

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            # its own traceback each time, or every raise would add the frames of its caller
            raise self._error.with_traceback(self._where)

    def _wait_for_room(self, nbytes: int) -> None:
        with self.lock:
            start = monotonic()
            while not self.has_room(nbytes):
                self.check_open()
                if all(job is self.tail for job in self._at):  # nothing moves: chunks hold it all
                    self._publish(self._flush(nbytes))
                self.pause()
            self.blocked_s += monotonic() - start

    def _flush(self, need: int) -> Flush:
        tail = self.tail
        return Flush(
            need=need,
            charged=tail.charged,
            rows=tail.rows,
            marked=tail.marked,
            since=tail.since,
            last=tail.last,
        )

    def _publish(self, job: Job) -> None:
        self.tail.next = job  # the one step that counts
        self.changed.notify_all()


def _ours(error: BaseException) -> LazycacheError:
    """Return an error of our tree, with the traceback of where it happened as its cause."""
    if isinstance(error, LazycacheError):
        return error
    ours = StorageError(f"Writing stopped: {type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours
