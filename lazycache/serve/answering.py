"""A query of a person's own: its first rows, within the limits of a page."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING

from lazycache.errors import QueryError
from lazycache.progress import bytes_text
from lazycache.serve.explorer import Explorer
from lazycache.serve.leaving import check_there

if TYPE_CHECKING:
    import pyarrow as pa

    from lazycache.query.sql.results import Result

BUSY = (
    "Another query of this explorer has been running for {seconds:g} seconds: one runs at a time. "
    "Ask again when it is done."
)
TOO_LONG = (
    "This query was ended after {seconds:g} seconds. Choose rows (WHERE, LIMIT) and columns: "
    'unit("site", 3) reads one unit, where * reads every site. `lazycache serve --seconds 60` '
    "waits longer; `lazycache sql` as long as it takes."
)
TOO_LARGE = (
    "More than {most} in the first rows ({rows}), and a page hands out no more. Choose fewer "
    "columns, or write a file with `lazycache sql --output FILE`."
)

STEP = 64
"""Rows of a batch: after each it is looked how large the answer is."""

TICK_S = 0.05
"""How often it is looked whether the time of a query is over."""

HERE = Event()
"""Never set: its reader stays."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The first rows of a query."""

    columns: tuple[str, ...]
    """Names of the columns."""
    types: tuple[str, ...]
    """SQL types of the columns."""
    batches: tuple[pa.RecordBatch, ...]
    """Its rows, no more than the limit."""
    more: bool
    """Whether it has rows beyond them."""
    seconds: float
    """How long it ran."""

    @property
    def rows(self) -> int:
        """How many rows are here."""
        return sum(batch.num_rows for batch in self.batches)


def ask(explorer: Explorer, query: str, *, to_file: bool = False, gone: Event = HERE) -> Answer:
    """Return the first rows of a query.

    Args:
        explorer: What is asked, and the limits.
        query: SQL that reads.
        to_file: Whether all columns are wanted; else those that a page shows.
        gone: Set when nobody waits for the answer any more.

    Raises:
        QueryError: the query is wrong, took too long, waited too long for another one, or its rows
            are too large for a file.
        ReadOnlyError: it writes.
        StorageError: the store failed.

    Cost: that of the query with a LIMIT of one row beyond those that are shown, and of the columns
    that are. One query runs at a time.
    """
    limits = explorer.limits
    with _turn(explorer, gone):
        began = time.monotonic()
        with closing(explorer.cache.sql(query)) as result, _ended(result, limits.seconds, gone):
            columns = None if to_file else limits.columns
            batches = result.batches(STEP, first=limits.rows + 1, columns=columns)
            with closing(batches):
                found, full = _held(batches, limits.nbytes if to_file else limits.held)
        taken = time.monotonic() - began
    kept, more = _cut(found, limits.rows)
    answer = Answer(result.columns, result.types, tuple(kept), more or full, taken)
    if to_file and full:
        most = bytes_text(limits.nbytes)
        raise QueryError(TOO_LARGE.format(rows=answer.rows, most=most))
    return answer


@contextmanager
def _turn(explorer: Explorer, gone: Event) -> Iterator[None]:
    """Wait for the query that runs, no longer than it may run."""
    seconds = explorer.limits.seconds
    until = time.monotonic() + seconds
    while not explorer.sql_turn.acquire(timeout=min(seconds, TICK_S)):
        check_there(gone)
        if time.monotonic() > until:
            raise QueryError(BUSY.format(seconds=seconds))
    try:
        yield
    finally:
        explorer.sql_turn.release()


@contextmanager
def _ended(result: Result, seconds: float, gone: Event) -> Iterator[None]:
    """End a result that is still being read when its time is over, or its reader gone."""
    done, late = Event(), Event()

    def watch() -> None:
        until = time.monotonic() + seconds
        while not done.wait(min(seconds, TICK_S)):
            if gone.is_set() or time.monotonic() > until:
                late.set()
                result.close()
                return

    threading.Thread(target=watch, name="end of a query", daemon=True).start()
    try:
        yield
    except QueryError as exc:
        check_there(gone)
        if late.is_set():
            raise QueryError(TOO_LONG.format(seconds=seconds)) from exc
        raise
    finally:
        done.set()


def _held(batches: Iterator[pa.RecordBatch], most: int) -> tuple[list[pa.RecordBatch], bool]:
    """Return the first batches that have so many bytes, and whether there were more of them."""
    found: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.nbytes > most:
            # one row at least: the reader sees what is so large
            fit = max(not found, int(batch.num_rows * most / batch.nbytes))
            return [*found, batch.slice(0, fit)], True
        found.append(batch)
        most -= batch.nbytes
    return found, False


def _cut(batches: list[pa.RecordBatch], rows: int) -> tuple[list[pa.RecordBatch], bool]:
    """Return batches of so many rows at most, and whether there were more."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows > rows:
            return [*kept, batch.slice(0, rows)], True
        kept.append(batch)
        rows -= batch.num_rows
    return kept, False
