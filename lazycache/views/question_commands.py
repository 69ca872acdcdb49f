"""The commands that ask: top, similar, stats, hist and sql."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

import lazycache
from lazycache.views.answers import check_output, print_answer
from lazycache.views.arguments import at_least_one
from lazycache.views.forms import Answer
from lazycache.views.output import STDOUT, form_of
from lazycache.views.questions import (
    bars,
    dense,
    histogram_answer,
    hits_answer,
    statistics_answer,
    unit_of_text,
    vector_of_row,
)
from lazycache.views.render import console, counted

if TYPE_CHECKING:
    from lazycache.query.finding.query_tile import Metric

SHOWN = 40
"""Rows of an answer that a table shows."""

Url = Annotated[str, typer.Argument(help="Folder or URL of a dataset.")]
Site = Annotated[str, typer.Argument(help="A site of the dataset.")]
Unit = Annotated[
    str | None,
    typer.Argument(help="Number of a unit from 0, 3,17 where rows have several dimensions."),
]
Where = Annotated[str | None, typer.Option(help="Condition in SQL on the rows.")]
Number = Annotated[int, typer.Option("-k", help="How many.")]
Around = Annotated[int, typer.Option(help="Tokens shown on each side; 0 for none.")]
Form = Annotated[
    str | None,
    typer.Option(
        "--format", help="table (first rows; the default), csv, json (an object a line) or parquet."
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="File; - is standard output.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")]


def top(
    url: Url,
    site: Site,
    unit: Unit = None,
    k: Number = 20,
    smallest: Annotated[bool, typer.Option("--smallest", help="The least, not the most.")] = False,
    per_example: Annotated[
        bool, typer.Option("--per-example", help="The best row of each example.")
    ] = False,
    where: Where = None,
    context: Around = 10,
    form: Form = None,
    output: Output = STDOUT,
    overwrite: Overwrite = False,
) -> None:
    """Find the rows in which a unit is greatest, with the text around them."""
    at_least_one("-k", k)
    check_output(form, output, overwrite=overwrite)
    place = unit_of_text(unit)
    hits = lazycache.open(url).top_k(
        site,
        place,
        k=k,
        largest=not smallest,
        where=where,
        per_example=per_example,
        context=context,
    )
    _print(hits_answer(hits, shortened=_is_table(form, output)), form, k, output, overwrite)


def similar(
    url: Url,
    site: Site,
    row: Annotated[int, typer.Argument(help="Column `row` of SQL: whose vector is looked for.")],
    k: Number = 20,
    metric: Annotated[str, typer.Option(help="cosine, l2 or dot.")] = "cosine",
    where: Where = None,
    context: Around = 10,
    form: Form = None,
    output: Output = STDOUT,
    overwrite: Overwrite = False,
) -> None:
    """Find the rows whose vectors are nearest to that of a row, which is itself among them."""
    at_least_one("-k", k)
    check_output(form, output, overwrite=overwrite)
    cache = lazycache.open(url)
    vector = vector_of_row(cache, site, row)
    hits = cache.similar(site, vector, k, cast("Metric", metric), where=where, context=context)
    _print(hits_answer(hits, shortened=_is_table(form, output)), form, k, output, overwrite)


def stats(
    url: Url,
    site: Site,
    where: Where = None,
    form: Form = None,
    output: Output = STDOUT,
    overwrite: Overwrite = False,
) -> None:
    """Say the numbers of each unit of a site: from stored statistics, no activation is read."""
    check_output(form, output, overwrite=overwrite)
    x = dense(lazycache.open(url), site, where)
    found = x.statistics("rows")
    if _is_table(form, output):
        console.print(f"{x.site}: {counted(found.rows, 'row')}", markup=False)
    answer = statistics_answer(found, x.row_shape)
    _print(answer, form, SHOWN, output, overwrite)


def hist(
    url: Url,
    site: Site,
    unit: Unit = None,
    bins: Annotated[int, typer.Option(help="How many.")] = 20,
    where: Where = None,
    form: Form = None,
    output: Output = STDOUT,
    overwrite: Overwrite = False,
) -> None:
    """Draw how the values of a unit, or of all units together, are distributed."""
    at_least_one("--bins", bins)
    check_output(form, output, overwrite=overwrite)
    place = unit_of_text(unit)
    found = lazycache.open(url).histogram(site, bins, unit=place, where=where)
    if _is_table(form, output):
        for line in bars(found):
            console.print(line, markup=False)
        return
    _print(histogram_answer(found), form, bins, output, overwrite)


def sql(
    url: Url,
    query: Annotated[str, typer.Argument(help="SELECT …; - reads it from standard input.")],
    form: Form = None,
    output: Output = STDOUT,
    overwrite: Overwrite = False,
) -> None:
    """Ask a dataset in SQL: tables tokens, examples, sites, statistics, shards, ..."""
    check_output(form, output, overwrite=overwrite)
    text = sys.stdin.read() if query == "-" else query
    _print(lazycache.open(url).sql(text), form, SHOWN, output, overwrite)


COMMANDS = (top, similar, stats, hist, sql)
"""What the command line takes from here."""


def _print(answer: Answer, form: str | None, most: int, output: str, overwrite: bool) -> None:
    print_answer(answer, form=form, most=most, output=output, overwrite=overwrite)


def _is_table(form: str | None, output: str) -> bool:
    return form_of(form, output) == "table"
