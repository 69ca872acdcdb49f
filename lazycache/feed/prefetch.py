"""Work ahead of who asks for it: an iterator on a thread of its own, a few items ahead.

The thread knows what it shares with the iterator, never the iterator itself: when nobody holds that
any more, the thread ends.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")

_JOIN_SECONDS = 10.0


class _Shared(Generic[Item]):
    """What the thread and the iterator share: items, and how it stands with them."""

    def __init__(self, most: int) -> None:
        self.items: deque[Item] = deque()
        self.most = most
        self.error: BaseException | None = None
        self.ended = False
        self.stopped = False
        self.changed = threading.Condition()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.items.clear()
            self.changed.notify_all()

    def wanted(self) -> bool:
        """Wait until there is room for an item; False: nobody wants any more."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or len(self.items) < self.most)
            return not self.stopped

    def add(self, item: Item) -> None:
        with self.changed:
            if not self.stopped:
                self.items.append(item)
                self.changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def get(self) -> Item:
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or self.ended or bool(self.items))
            if self.items:
                item = self.items.popleft()
                self.changed.notify_all()
                return item
            error, self.error = self.error, None
        if error is not None:
            raise error
        raise StopIteration


class Ahead(Generic[Item]):
    """The items of an iterator, made on a thread, at most `most` of them ahead.

    What the iterator raises comes out of `next` once, after the items before it. The thread ends
    with the iterator, when this is closed, or when it is no longer used; not in the middle of an
    item.

    Example:
        >>> with Ahead(iter(range(3)), most=1, name="counting") as ahead:
        ...     list(ahead)
        [0, 1, 2]
    """

    def __init__(self, items: Iterator[Item], *, most: int, name: str) -> None:
        shared: _Shared[Item] = _Shared(most)
        self._shared = shared
        # a daemon, or a loop that nobody finishes would keep the process from ending
        self._thread = threading.Thread(
            target=_work, args=(items, shared), name=f"lazycache-{name}", daemon=True
        )
        weakref.finalize(self, shared.stop).atexit = False
        _running[self._thread] = shared
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        return self._shared.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and wait for it; there are no items any more."""
        self._shared.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _work(items: Iterator[Item], shared: _Shared[Item]) -> None:
    error = None
    try:
        # an item is begun when there is room for it: no more than `most` are ever held here
        while shared.wanted():
            shared.add(next(items))
    except StopIteration:
        pass
    except BaseException as exc:  # noqa: BLE001  # it is raised where items are asked for
        error = exc
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
        shared.end(error)


_running: weakref.WeakKeyDictionary[threading.Thread, _Shared[Any]] = weakref.WeakKeyDictionary()


def _forget() -> None:
    """Say in a forked process, which has no such threads, that nothing comes from them."""
    for shared in list(_running.values()):
        # what held the lock is not here to give it back
        shared.changed = threading.Condition()
        shared.stop()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _end_all() -> None:
    """End what still runs: a thread inside torch must not outlive the interpreter."""
    for thread, shared in list(_running.items()):
        shared.stop()
        thread.join(_JOIN_SECONDS)
