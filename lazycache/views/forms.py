"""An answer written as csv, json or Parquet to a stream, batch by batch: the one place for it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, Protocol

from lazycache.errors import QueryError
from lazycache.plain_text import in_one_line
from lazycache.views.documents import to_json

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1024
"""Rows that are in memory at a time."""

AT_ONCE = 64
"""Rows that are Python values at a time: a row may be a hundred thousand numbers."""

PARQUET_ROWS = 65_536
"""Rows of a row group of Parquet."""


class Answer(Protocol):
    """Rows with names: a result of SQL, or a table in memory."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        ...

    def batches(self, rows: int = ...) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow batches."""
        ...

    def arrow(self) -> pa.Table:
        """Return all rows."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class TableAnswer:
    """A table in memory as an answer."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.columns = tuple(table.column_names)
        """Names of the columns."""

    def batches(self, rows: int = BATCH) -> Iterator[pa.RecordBatch]:
        """Yield the rows as Arrow batches."""
        yield from self._table.to_batches(max_chunksize=rows)

    def arrow(self) -> pa.Table:
        """Return the table."""
        return self._table

    def close(self) -> None:
        """Do nothing."""


def write_csv(answer: Answer, stream: IO[bytes]) -> None:
    """Write a line of names, then a line for each row."""
    with _text(stream) as text:
        csv_to(answer, text)


def write_json(answer: Answer, stream: IO[bytes]) -> None:
    """Write an object a line."""
    with _text(stream) as text:
        json_to(answer, text)


def write_parquet(answer: Answer, stream: IO[bytes]) -> None:
    """Write a Parquet file: a row group in memory at a time. The stream need not seek."""
    import pyarrow.parquet as pq

    batches = answer.batches(PARQUET_ROWS)
    first = next(batches, None)
    schema = answer.arrow().schema if first is None else first.schema
    with pq.ParquetWriter(_Counting(stream), schema) as writer:
        if first is not None:
            writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)


WRITERS: Mapping[str, Callable[[Answer, IO[bytes]], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
"""Form to what writes it to a stream of bytes."""


def csv_to(answer: Answer, text: IO[str], *, is_shown: bool = False) -> None:
    """Write csv to a stream of text; if it is shown, without what a terminal would obey."""
    writer = csv.writer(text)
    writer.writerow(answer.columns)
    for batch in answer.batches(BATCH):
        rows = rows_of(batch)
        writer.writerows(map(_harmless, rows) if is_shown else rows)


def _harmless(row: tuple[Any, ...]) -> list[Any]:
    return [in_one_line(value) if isinstance(value, str) else value for value in row]


def json_to(answer: Answer, text: IO[str]) -> None:
    """Write an object a line to a stream of text; NaN and infinities are null."""
    check_names(answer.columns)
    for batch in answer.batches(BATCH):
        for row in rows_of(batch):
            named = dict(zip(answer.columns, row, strict=True))
            text.write(to_json(named) + "\n")


def check_names(columns: Sequence[str]) -> None:
    """Refuse columns of one name: an object has one value for each.

    Raises:
        QueryError: names one.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise QueryError(
            f"two columns are called {twice[0]!r}, and an object of json has one: name them, "
            "SELECT x AS first."
        )


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Give the rows of a batch as tuples of Python values."""
    for start in range(0, batch.num_rows, AT_ONCE):
        part = batch.slice(start, AT_ONCE)
        yield from zip(*(map(_plain, c.to_pylist()) for c in part.columns), strict=True)


def _plain(value: Any) -> Any:
    """Give integers beyond 64 bits, such as every sum of integers, back from Arrow's decimals."""
    whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
    return int(value) if whole else value


class _text(io.TextIOWrapper):  # noqa: N801  # used as a function
    """Text over a stream of bytes that is left open."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="utf-8", newline="")

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.flush()
        self.detach()


class _Counting:
    """A stream that knows how far it is without being asked: a pipe does not."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._at, self.closed = stream, 0, False

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self._at += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
