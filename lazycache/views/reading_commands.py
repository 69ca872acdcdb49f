"""The commands that look at a dataset: ls, info and head."""

from __future__ import annotations

from typing import Annotated

import typer

import lazycache
from lazycache.errors import QueryError
from lazycache.types import RAGGED
from lazycache.views.arguments import at_least_one
from lazycache.views.commands import Command, Example
from lazycache.views.options import Form, Json, JsonLines, Site, Url
from lazycache.views.output import chosen_form


def ls(url: Url, json: JsonLines = False) -> None:
    """List the sites of a dataset."""
    from lazycache.views.datasets import print_list

    print_list(lazycache.open(url), json=json)


def info(url: Url, json: Json = False) -> None:
    """Say what a dataset is: rows, bytes, version, provenance."""
    from lazycache.views.datasets import print_info

    print_info(lazycache.open(url), json=json)


def head(
    url: Url,
    site: Site,
    rows: Annotated[int, typer.Option("--rows", "-n", help="How many.")] = 5,
    form: Form = None,
    json: JsonLines = False,
) -> None:
    """Print the first rows of a site.

    Whose they are, and their values: a table shows a few of each row, other formats all.
    """
    from lazycache.views.answers import print_answer

    at_least_one("-n", rows)
    form = chosen_form(form, json=json)
    cache = lazycache.open(url)
    spec = cache.sites.get(cache[site].site)
    if spec is None or site not in cache.sites or spec.layout == RAGGED:
        raise QueryError(
            f"{site!r} is a part of a site, or its rows differ in width: they make no table. In "
            f"Python: lc.open({url!r})[{site!r}][0].load() is the first example."
        )
    home = spec.table
    shown = "row, example" if home == "examples" else "row, example, position, token"
    known = cache.snapshot.columns(home)
    wanted = [c for c in shown.split(", ") if c == "row" or c in known]
    quoted = '"' + site.replace('"', '""') + '"'
    result = cache.sql(
        f"SELECT {', '.join(wanted)}, {quoted} FROM {home} "  # noqa: S608  # quoted above
        f"WHERE {quoted} IS NOT NULL ORDER BY row LIMIT $n",
        {"n": rows},
    )
    print_answer(result, form=form, most=rows)


COMMANDS = (
    Command(
        ls,
        "Read",
        (
            Example("The sites of a dataset", "lazycache ls acts"),
            Example("For a script, an object a line", "lazycache ls acts --json"),
        ),
    ),
    Command(
        info,
        "Read",
        (
            Example("Rows, bytes, versions, and which model made it", "lazycache info acts"),
            Example("Of a dataset in a bucket", "lazycache info s3://bucket/acts"),
            Example("As one JSON document", "lazycache info acts --json"),
        ),
    ),
    Command(
        head,
        "Read",
        (
            Example("The first five tokens of a layer", "lazycache head acts resid_out_5"),
            Example("With all numbers, as JSON", "lazycache head acts resid_out_5 -n 2 --json"),
        ),
    ),
)
"""What the command line takes from here."""
