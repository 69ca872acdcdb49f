"""The page of `/`: what the dataset has, and the parts of it that take a read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lazycache.cache.tables.conditions import quoted
from lazycache.errors import QueryError
from lazycache.faces.html import Html
from lazycache.mapping.overview import Group, overview, span
from lazycache.serve import charts
from lazycache.serve.answer_views import AnswerView, view_of
from lazycache.serve.answering import ask
from lazycache.serve.dataset_views import view_of as dataset_view_of
from lazycache.serve.explorer import Explorer
from lazycache.serve.rendering import fragment, page

WIDTH, HEIGHT = 520, 200
"""Pixels of the norms of a group of sites."""

SAMPLE = 5
"""Rows of each table that are shown."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The first rows of a table."""

    table: str
    """Its name."""
    rows: int
    """How many it has."""
    query: str
    """What gives them."""
    view: AnswerView | None
    """The rows; None where they could not be read."""
    problem: str
    """Why not."""


def show(request: Request) -> Response:
    """Answer with all that the log says."""
    explorer: Explorer = request.app.state.explorer
    return page(request, "overview.html", {"view": dataset_view_of(explorer.cache)})


def norms(request: Request) -> Response:
    """Answer with the norms of layers, from statistics: the page asks when it is there."""
    explorer: Explorer = request.app.state.explorer
    groups = [one for one in overview(explorer.cache).groups if one.norms]
    known = [(one.pattern, span(one.norms), _drawn(one)) for one in groups]
    return fragment(request, "overview_norms.html", {"known": known})


def samples(request: Request) -> Response:
    """Answer with the first rows of the tables, which may have to be indexed first."""
    explorer: Explorer = request.app.state.explorer
    snapshot = explorer.cache.datasets[0].snapshot
    found = [_sample(explorer, name) for name in snapshot.tables if snapshot.columns(name)]
    return fragment(request, "overview_samples.html", {"samples": found})


ROUTES = [
    Route("/", show),
    Route("/overview/norms", norms),
    Route("/overview/samples", samples),
]
"""What the application takes from here."""


def _drawn(group: Group) -> Html:
    """Return the norms of a group by its numbers, in their order where there are several."""
    numbers = [re.findall(r"[0-9]+", key) for key in group.keys]
    alone = all(len(one) == 1 for one in numbers)
    across = [float(one[0]) if alone else float(at) for at, one in enumerate(numbers)]
    points = [(x, y) for x, y in zip(across, group.norms, strict=True) if math.isfinite(y)]
    names = ("layer" if alone else "site", "norm")
    return charts.line(sorted(points), names=names, width=WIDTH, height=HEIGHT)


def _sample(explorer: Explorer, table: str) -> Sample:
    snapshot = explorer.cache.datasets[0].snapshot
    named = ", ".join(map(quoted, snapshot.columns(table)))
    # columns of the table alone: a star would read the sites
    query = f"SELECT {named} FROM {quoted(table)} LIMIT {SAMPLE}"  # noqa: S608  # names are quoted
    try:
        view = view_of(ask(explorer, query), explorer.limits, {"chart": "none"})
    except QueryError as exc:
        return Sample(table, snapshot.rows(table), query, None, str(exc))
    return Sample(table, snapshot.rows(table), query, view, "")
