"""What runs on a connection right now, so that closing can end it first.

DuckDB calls our functions from its own threads. One of them that wants to enter Python while the
interpreter ends kills the process, and a cursor that is closed under a running query crashes. So
every call of DuckDB and every function of ours is entered here, and closing waits for all of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from lazycache.errors import LazycacheError, QueryError
from lazycache.query.sql.measures import Measures

CLOSED = "The connection is closed: open the dataset again."

TICK_S = 0.01
"""Pause between two interrupts: one that comes before DuckDB has begun is lost."""

EXIT_PATIENCE_S = 60.0
"""How long the end of the interpreter waits for a read that hangs, of a remote store say."""

LEAVE_S = 1.0
"""How long the end of the interpreter waits for a thread that has left DuckDB."""

_Call = tuple[duckdb.DuckDBPyConnection | None, threading.Thread]


class Activity:
    """Calls and functions of one connection. Shared by all its threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: list[_Call] = []
        self._functions = 0
        self._closed = False
        self.measures = Measures()
        """What prepared queries measure of rows, by the number that functions are given."""

    @property
    def closed(self) -> bool:
        """Whether nothing may begin any more."""
        return self._closed

    @contextmanager
    def call(self, cursor: duckdb.DuckDBPyConnection | None) -> Iterator[None]:
        """Run something that DuckDB does for a caller; `cursor` is what can be interrupted.

        Raises:
            QueryError: the connection is closed, or was closed meanwhile.
        """
        mine = (cursor, threading.current_thread())
        with self._changed:
            open_ = not self._closed
            if open_:
                self._calls.append(mine)
        if not open_:
            _leave_at_exit()
            raise QueryError(CLOSED)
        try:
            yield
        except (duckdb.Error, LazycacheError) as exc:
            if self._closed:  # whatever came of being interrupted
                raise QueryError(CLOSED) from exc
            raise
        finally:
            with self._changed:
                self._calls.remove(mine)
                self._changed.notify_all()
            if self._closed:
                _leave_at_exit()

    @contextmanager
    def function(self) -> Iterator[None]:
        """Run one of our functions inside a query.

        Raises:
            QueryError: the connection is closed: nothing is read any more.
        """
        with self._changed:
            if self._closed:
                raise QueryError(CLOSED)
            self._functions += 1
        try:
            yield
        finally:
            with self._changed:
                self._functions -= 1
                self._changed.notify_all()

    def stop(self) -> bool:
        """Let nothing begin any more, interrupt what runs and wait for it.

        False if it still runs when the interpreter cannot wait any longer.
        """
        deadline = time.monotonic() + EXIT_PATIENCE_S
        with self._changed:
            self._closed = True
            threads = {thread for _, thread in self._calls}
            while self._calls or self._functions:
                if _exiting() and time.monotonic() > deadline:
                    return False
                for cursor, _ in self._calls:
                    if cursor is not None:
                        cursor.interrupt()
                self._changed.wait(TICK_S)
        if _exiting():  # they end by themselves now; what they hold is best released before we go
            for thread in threads - {threading.current_thread()}:
                thread.join(LEAVE_S)
        return True


def _exiting() -> bool:
    # Python marks its main thread as ended before it runs what was registered with atexit
    return not threading.main_thread().is_alive()


def _leave_at_exit() -> None:
    """End a daemon thread, if the interpreter ends: there is nobody left to tell of an error."""
    if _exiting() and threading.current_thread().daemon:
        raise SystemExit
