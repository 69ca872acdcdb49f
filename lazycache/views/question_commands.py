"""The commands that ask: top, similar, stats, hist and sql."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

import lazycache
from lazycache.views import completion
from lazycache.views.arguments import at_least_one
from lazycache.views.commands import Command, Example
from lazycache.views.options import (
    Around,
    Form,
    JsonLines,
    Number,
    Output,
    Overwrite,
    Site,
    Unit,
    Url,
    Where,
)
from lazycache.views.output import STDOUT, check_output, chosen_form, form_of

if TYPE_CHECKING:
    from lazycache.query.finding.query_tile import Metric
    from lazycache.views.forms import Answer

SHOWN = 40
"""Rows of an answer that a table shows."""


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
    json: JsonLines = False,
) -> None:
    """Find the rows in which a unit is greatest, in their text."""
    from lazycache.views.questions import hits_answer, unit_of_text

    at_least_one("-k", k)
    form = chosen_form(form, json=json)
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
    metric: Annotated[
        str, typer.Option(help="cosine, l2 or dot.", autocompletion=completion.metrics)
    ] = "cosine",
    where: Where = None,
    context: Around = 10,
    form: Form = None,
    output: Output = STDOUT,
    overwrite: Overwrite = False,
    json: JsonLines = False,
) -> None:
    """Find the rows whose vectors are nearest to that of a row.

    The row itself is among them: the first, by cosine and l2.
    """
    from lazycache.views.questions import hits_answer, vector_of_row

    at_least_one("-k", k)
    form = chosen_form(form, json=json)
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
    json: JsonLines = False,
) -> None:
    """Print the least, greatest, mean, spread of each unit.

    From stored statistics: no activation is read, unless --where asks for some rows.
    """
    from lazycache.views.questions import dense, statistics_answer
    from lazycache.views.render import console, counted

    form = chosen_form(form, json=json)
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
    json: JsonLines = False,
) -> None:
    """Draw how the values of a unit, or of all, are distributed."""
    from lazycache.views.questions import bars, histogram_answer, unit_of_text
    from lazycache.views.render import console

    at_least_one("--bins", bins)
    form = chosen_form(form, json=json)
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
    json: JsonLines = False,
) -> None:
    """Ask a dataset in SQL.

    Tables tokens and examples have a column for each site, and unit(site, i), dot, norm and cosine
    of it; sites, runs, statistics, shards say what is stored. Read-only.
    """
    form = chosen_form(form, json=json)
    check_output(form, output, overwrite=overwrite)
    text = sys.stdin.read() if query == "-" else query
    _print(lazycache.open(url).sql(text), form, SHOWN, output, overwrite)


def _print(answer: Answer, form: str | None, most: int, output: str, overwrite: bool) -> None:
    from lazycache.views.answers import print_answer

    print_answer(answer, form=form, most=most, output=output, overwrite=overwrite)


def _is_table(form: str | None, output: str) -> bool:
    return form_of(form, output) == "table"


COMMANDS = (
    Command(
        top,
        "Ask",
        (
            Example("Where neuron 697 fires most", "lazycache top acts mlp_act_3 697"),
            Example(
                "The best token of each example, not the first one",
                "lazycache top acts mlp_act_3 697 -k 5 --per-example --where 'position > 0'",
            ),
            Example(
                "Into a file", "lazycache top acts mlp_act_3 697 -k 1000 --context 0 -o top.csv"
            ),
        ),
    ),
    Command(
        similar,
        "Ask",
        (
            Example("Tokens with a vector like that of row 40", "lazycache similar acts embed 40"),
            Example(
                "By distance, as JSON", "lazycache similar acts resid_out_5 40 --metric l2 --json"
            ),
        ),
    ),
    Command(
        stats,
        "Ask",
        (
            Example("Least, greatest, mean, spread of each unit", "lazycache stats acts embed"),
            Example("Of all units, to a file", "lazycache stats acts mlp_act_3 -o units.parquet"),
        ),
    ),
    Command(
        hist,
        "Ask",
        (
            Example("How neuron 697 is distributed", "lazycache hist acts mlp_act_3 697"),
            Example(
                "All units of a layer, in ten bins", "lazycache hist acts resid_out_5 --bins 10"
            ),
        ),
    ),
    Command(
        sql,
        "Ask",
        (
            Example(
                "Which tokens are frequent",
                "lazycache sql acts 'SELECT token, count(*) AS n FROM tokens GROUP BY ALL'",
            ),
            Example(
                "One neuron of some tokens",
                "lazycache sql acts 'SELECT unit(mlp_act_3, 697) FROM tokens LIMIT 5' --json",
            ),
            Example(
                "A query from a file, its answer to a pipe",
                "lazycache sql acts - --format csv < query.sql",
            ),
        ),
    ),
)
"""What the command line takes from here."""
