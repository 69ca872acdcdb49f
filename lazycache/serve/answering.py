"""A query of a person's own: its first rows, within the limits of a page."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazycache.errors import QueryError
from lazycache.progress import bytes_text
from lazycache.serve.explorer import Explorer

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
    "These {rows} rows are {size}, more than the {most} that a page hands out. Choose fewer "
    "columns, or write a file with `lazycache sql --output FILE`."
)


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


def ask(explorer: Explorer, query: str, *, nbytes: int | None = None) -> Answer:
    """Return the first rows of a query.

    Args:
        explorer: What is asked, and the limits of rows and seconds.
        query: SQL that reads.
        nbytes: How large the rows may be, in Arrow's memory; None: any size, they are shortened.

    Raises:
        QueryError: the query is wrong, took too long, waited too long for another one, or its rows
            are too large.
        ReadOnlyError: it writes.
        StorageError: the store failed.

    Cost: runs until there is one row beyond the limit. One query runs at a time.
    """
    limits = explorer.limits
    with _turn(explorer):
        began = time.monotonic()
        with closing(explorer.cache.sql(query)) as result, _ended(result, limits.seconds):
            found = _first(result, limits.rows + 1)
        taken = time.monotonic() - began
    kept, more = _cut(found, limits.rows)
    answer = Answer(result.columns, result.types, tuple(kept), more, taken)
    _check_size(answer, nbytes)
    return answer


@contextmanager
def _turn(explorer: Explorer) -> Iterator[None]:
    """Wait for the query that runs, no longer than it may run."""
    seconds = explorer.limits.seconds
    if not explorer.sql_turn.acquire(timeout=seconds):
        raise QueryError(BUSY.format(seconds=seconds))
    try:
        yield
    finally:
        explorer.sql_turn.release()


@contextmanager
def _ended(result: Result, seconds: float) -> Iterator[None]:
    """End a result that is still being read when its time is over."""
    late = threading.Event()

    def end() -> None:
        late.set()
        result.close()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except QueryError as exc:
        if late.is_set():
            raise QueryError(TOO_LONG.format(seconds=seconds)) from exc
        raise
    finally:
        timer.cancel()


def _first(result: Result, rows: int) -> list[pa.RecordBatch]:
    """Return batches until they have so many rows."""
    found: list[pa.RecordBatch] = []
    with closing(_batches(result, rows)) as batches:
        for batch in batches:
            found.append(batch)
            rows -= batch.num_rows
            if rows <= 0:
                break
    return found


def _batches(result: Result, rows: int) -> Generator[pa.RecordBatch, None, None]:
    yield from result.batches(rows)


def _cut(batches: list[pa.RecordBatch], rows: int) -> tuple[list[pa.RecordBatch], bool]:
    """Return batches of so many rows at most, and whether there were more."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        if batch.num_rows > rows:
            return [*kept, batch.slice(0, rows)], True
        kept.append(batch)
        rows -= batch.num_rows
    return kept, False


def _check_size(answer: Answer, nbytes: int | None) -> None:
    size = sum(batch.nbytes for batch in answer.batches)
    if nbytes is not None and size > nbytes:
        raise QueryError(
            TOO_LARGE.format(rows=answer.rows, size=bytes_text(size), most=bytes_text(nbytes))
        )
