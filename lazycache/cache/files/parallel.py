"""Large copies and reductions on a few threads, in order, with bounded work in flight.

Threads of our own, and pieces small enough that torch and BLAS stay on the thread that called:
their own thread pools wait for the slowest core, which costs 20 times on a machine that others use.
Where every core has one of our threads, torch starts none beside them at all.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from lazycache.one_thread import one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 4
PARALLEL_BYTES = 16 << 20
"""Below this, starting threads costs more than it gains."""

PIECE_VALUES = 32_768
"""Values up to which torch does not start threads for one operation (its grain size)."""


def threads(nbytes: int) -> int:
    """Return how many threads to use for work on `nbytes`."""
    if nbytes < PARALLEL_BYTES:
        return 1
    return min(MOST_THREADS, _cores())


def _cores() -> int:
    """Return the cores this process may use, which in a container or job are fewer than all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Yield `work(item)` in order of the items, which are taken only a few ahead.

    Items of a generator are closed at the end, also at that of a failure: whoever keeps its
    traceback would keep what the generator has open, such as a bar on the screen.

    Example:
        >>> list(ordered(lambda i: i * i, range(4), workers=2))
        [0, 1, 4, 9]
    """
    source = iter(items)
    try:
        yield from map(work, source) if workers <= 1 else _ahead(work, source, workers)
    finally:
        if isinstance(source, Generator):
            source.close()


def _ahead(
    work: Callable[[Item], Result], source: Iterator[Item], workers: int
) -> Iterator[Result]:
    doing = _alone(work) if workers >= _cores() else work
    with ThreadPoolExecutor(workers, thread_name_prefix="lazycache-read") as pool:
        flying: deque[Future[Result]] = deque()
        try:
            flying.extend(pool.submit(doing, item) for item in islice(source, 2 * workers))
            while flying:
                yield flying.popleft().result()
                flying.extend(pool.submit(doing, item) for item in islice(source, 1))
        finally:
            for future in flying:
                future.cancel()


def _alone(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """Return the same work without threads of torch's: the cores are taken."""

    def doing(item: Item) -> Result:
        with one_thread():
            return work(item)

    return doing


def share(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Do `work` for every item, on this thread and a second one: for a millisecond's work.

    The second thread takes items while it gets to run, so that a busy machine costs nothing: who
    waits for it waits for one item at most.

    Example:
        >>> done = []
        >>> share(done.append, range(3))
        >>> sorted(done)
        [0, 1, 2]
    """
    left = iter(list(items))

    def rest() -> None:
        for item in left:
            work(item)

    second = _second().submit(rest)
    try:
        rest()
    finally:
        # what it works on may end with the caller; if it has not begun it is not waited for
        if not second.cancel():
            second.result()


def _second() -> ThreadPoolExecutor:
    """Return a thread of this process, started when it is first needed."""
    pid = os.getpid()
    pool = _pools.get(pid)
    if pool is None:
        # those of a process that was forked are not ours, and do not run here
        _pools.clear()
        pool = _pools.setdefault(pid, ThreadPoolExecutor(1, thread_name_prefix="shared-gather"))
    return pool


_pools: dict[int, ThreadPoolExecutor] = {}
