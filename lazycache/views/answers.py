"""The answer of a query on the terminal or in a pipe: a table's first rows, or all as a stream."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from lazycache.errors import QueryError
from lazycache.query.sql.results import Result
from lazycache.views.render import console, counted, table

if TYPE_CHECKING:
    import pyarrow as pa

FORMS = ("table", "csv", "json")
"""What an answer can be printed as; json is one object a line."""

BATCH = 1024
"""Rows that are in memory at a time."""

AT_ONCE = 64
"""Rows that are Python values at a time: a row may be a hundred thousand numbers."""


def print_answer(result: Result, *, form: str, most: int) -> None:
    """Print an answer.

    Args:
        result: What to print; it is closed.
        form: One of `FORMS`.
        most: Rows that a table shows; csv and json give all.

    Raises:
        QueryError: no such form, or the query failed while it ran.

    Cost: one batch is in memory at a time; a table reads two batches beyond its rows at most.
    """
    if form not in FORMS:
        raise QueryError(f"No output format {form!r}. There are: {', '.join(FORMS)}.")
    with closing(result):
        if form == "table":
            _print_table(result, most)
        elif form == "csv":
            _print_csv(result)
        else:
            _print_json(result)


def _print_table(result: Result, most: int) -> None:
    shown: list[tuple[Any, ...]] = []
    left, all_counted = 0, True
    for batch in result.batches(BATCH):
        if left and batch.num_rows:
            all_counted = False  # counting on would read everything
            break
        room = most - len(shown)
        shown += _rows(batch.slice(0, room))
        left += max(batch.num_rows - room, 0)
    console.print(table(result.columns, shown))
    if left:
        more = counted(left, "more row") if all_counted else "more rows"
        console.print(f"… {more}  (--format csv or json gives all)")


def _print_csv(result: Result) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(result.columns)
    for batch in result.batches(BATCH):
        writer.writerows(_rows(batch))


def _print_json(result: Result) -> None:
    for batch in result.batches(BATCH):
        for row in _rows(batch):
            named = dict(zip(result.columns, row, strict=True))
            print(json.dumps(named, default=str, ensure_ascii=False))  # noqa: T201


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Give the rows of a batch as tuples of Python values."""
    for start in range(0, batch.num_rows, AT_ONCE):
        part = batch.slice(start, AT_ONCE)
        yield from zip(*(map(_plain, c.to_pylist()) for c in part.columns), strict=True)


def _plain(value: Any) -> Any:
    """Give integers beyond 64 bits, such as every sum of integers, back from Arrow's decimals."""
    whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
    return int(value) if whole else value
