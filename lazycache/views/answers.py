"""The answer of a query on the terminal, in a pipe or in a file: its first rows, or all of them."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

from lazycache.views.forms import BATCH, WRITERS, Answer, csv_to, json_to, rows_of
from lazycache.views.output import STDOUT, check_terminal, form_of, whole_file
from lazycache.views.render import console, counted, table


def print_answer(
    answer: Answer,
    *,
    form: str | None,
    most: int,
    output: str = STDOUT,
    overwrite: bool = False,
) -> None:
    """Print an answer, or write it to a file.

    Args:
        answer: What to print; it is closed.
        form: One of `output.FORMS`; None: by the ending of the file, a table on standard output.
        most: Rows that a table shows; other forms give all.
        output: A file; `-` for standard output.
        overwrite: Whether a file that is there is replaced.

    Raises:
        QueryError: no such form, or the query failed while it ran.
        DatasetExistsError: the file is there.
        StorageError: it cannot be written; it is then as it was.

    Cost: one batch is in memory at a time; a table reads two batches beyond its rows at most.
    """
    with closing(answer):
        chosen = form_of(form, output)
        if output != STDOUT:
            with whole_file(output, overwrite=overwrite) as stream:
                WRITERS[chosen](answer, stream)
        elif chosen == "table":
            _print_table(answer, most)
        elif chosen == "csv":
            csv_to(answer, sys.stdout, is_shown=sys.stdout.isatty())
        elif chosen == "json":
            json_to(answer, sys.stdout)
        else:
            check_terminal(chosen)
            WRITERS[chosen](answer, sys.stdout.buffer)


def _print_table(answer: Answer, most: int) -> None:
    shown: list[tuple[Any, ...]] = []
    left, all_counted = 0, True
    for batch in answer.batches(BATCH):
        if left and batch.num_rows:
            all_counted = False  # counting on would read everything
            break
        room = min(most - len(shown), batch.num_rows)
        shown += rows_of(batch.slice(0, room))
        left += batch.num_rows - room
    console.print(table(answer.columns, shown))
    if left:
        more = counted(left, "more row") if all_counted else "more rows"
        console.print(f"… {more}  (--format csv, json or parquet gives all)")
