"""Hands finished forward passes on, in order, when the last of their values is on the host.

From the CPU everything is there when a forward pass ends: the caller hands it on itself. From a GPU
values arrive later, and a thread waits for them, so that the model's does not.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from lazycache.capture.device.staging import Staged
from lazycache.errors import CaptureError, LazycacheError

IN_FLIGHT_BYTES = 256 << 20
"""Bytes that may be on their way: enough that a link never idles between two forward passes."""

_PATIENCE_S = 1.0  # no wait is longer: a signal or a notification that was missed costs a second

Job = Callable[[], None]
"""Hands on one forward pass whose values are all on the host."""


@dataclass(frozen=True, slots=True, eq=False)
class _Parcel:
    job: Job
    after: Sequence[Staged]
    nbytes: int


class Delivery:
    """Runs jobs in the order in which they were put, each after its values have arrived.

    A job whose values are there runs at once, in the caller's thread, and raises there. The first
    one that has to wait starts a thread, and from then on all go through it. An error of the thread
    ends it: what was put behind the failed job is dropped whole, and every later call raises the
    error. End with `close`.

    Args:
        limit: Bytes that may be on their way. The next `put` then waits for room; what is larger
            goes alone.

    Example:
        >>> delivery, done = Delivery(), []
        >>> delivery.put(lambda: done.append(1), after=[])
        >>> delivery.close()
        >>> done
        [1]
    """

    def __init__(self, *, limit: int = IN_FLIGHT_BYTES) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._parcels: deque[_Parcel] = deque()
        self._nbytes = 0
        self._closed = False
        self._error: LazycacheError | None = None
        self._where: TracebackType | None = None
        self._thread: threading.Thread | None = None

    def put(self, job: Job, *, after: Sequence[Staged]) -> None:
        """Run a job when all of `after` are on the host.

        One thread at a time may put. The job must not need a lock that the caller holds: while
        there is no room the caller waits for the job.

        Raises:
            LazycacheError: what an earlier job met.
            CaptureError: it is closed.
        """
        if self._thread is None and all(staged.event is None for staged in after):
            self._check_open()
            job()
            return
        nbytes = sum(staged.tensor.nbytes for staged in after)
        with self._changed:
            self._check_open()
            self._start()
            while self._nbytes and self._nbytes + nbytes > self._limit:
                self._changed.wait(_PATIENCE_S)
                self._check_open()
            self._nbytes += nbytes
            self._parcels.append(_Parcel(job, after, nbytes))
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until every job so far is done.

        Raises:
            LazycacheError: what one of them met.
        """
        with self._changed:
            while self._parcels:
                self._changed.wait(_PATIENCE_S)
            self._check()

    def close(self) -> None:
        """Wait until every job is done, and end the thread. Nothing may be put afterwards.

        Raises:
            LazycacheError: what one of them met; also the second time.
        """
        try:
            self.drain()
        finally:  # also when Ctrl-C ends the waiting: what is left is dropped
            with self._changed:
                self._closed = True
                self._drop()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            # a daemon: a process that ends on an exception must not wait for a slow store
            self._thread = threading.Thread(
                target=self._run, name="lazycache-delivery", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        try:
            while self._deliver():
                pass
        except BaseException as error:  # noqa: BLE001 - a thread carries any error to its callers
            with self._changed:
                self._error = _ours(error)
                self._where = self._error.__traceback__
                self._drop()

    def _deliver(self) -> bool:
        """Run the next job. A function of its own: its variables must not outlive it."""
        parcel = self._next()
        if parcel is None:
            return False
        for staged in parcel.after:
            staged.wait()
        parcel.job()
        self._done(parcel)
        return True

    def _next(self) -> _Parcel | None:
        with self._changed:
            while not self._parcels and not self._closed:
                self._changed.wait()
            return self._parcels[0] if self._parcels else None

    def _done(self, parcel: _Parcel) -> None:
        with self._changed:
            if self._parcels:  # unless all was dropped meanwhile
                self._parcels.popleft()
                self._nbytes -= parcel.nbytes
            self._changed.notify_all()

    def _drop(self) -> None:
        self._parcels.clear()
        self._nbytes = 0
        self._changed.notify_all()

    def _check_open(self) -> None:
        self._check()
        if self._closed:
            raise CaptureError("The capture has ended: nothing more can be recorded.")

    def _check(self) -> None:
        if self._error is not None:
            # its own traceback each time, or every raise would add the frames of its caller
            raise self._error.with_traceback(self._where)


def _ours(error: BaseException) -> LazycacheError:
    """Return an error of our tree: torch's own says that a kernel or a copy failed."""
    if isinstance(error, LazycacheError):
        return error
    ours = CaptureError(
        f"Values of a forward pass did not reach the host, {type(error).__name__}: {error}. It and "
        "what was recorded after it are lost; what came before is not."
    )
    ours.__cause__ = error
    return ours
