"""The page of one unit: `/unit?site=mlp_act_3&unit=412`, and its parts that take longer."""

from __future__ import annotations

from threading import Event
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from lazycache.serve.explorer import Explorer
from lazycache.serve.leaving import while_there
from lazycache.serve.neighbours import neighbours_of
from lazycache.serve.rendering import fragment, link, page
from lazycache.serve.unit_views import distribution_of, extremes_of, query_of, statistics_of
from lazycache.serve.units import (
    Unit,
    asked_of,
    beside,
    first_of,
    found,
    layers_beside,
    sites_with_units,
)
from lazycache.types import RAGGED


def show(request: Request) -> Response:
    """Answer with the page of a unit; without a site, go to one."""
    explorer: Explorer = request.app.state.explorer
    asked = asked_of(request.query_params)
    names = sites_with_units(explorer)
    if asked is None:
        first = first_of(names)
        if first is None:
            return page(request, "unit.html", {"unit": None, "names": names})
        return RedirectResponse(link("/unit", site=first))
    spec = explorer.cache.stored.sites.get(asked.site)
    if spec is not None and spec.layout == RAGGED:
        # a pattern has no units: it is looked at example by example
        return RedirectResponse(link("/example", layer=asked.site))
    unit = found(explorer, asked)
    return page(request, "unit.html", {"names": names, **_shown(unit, names)})


async def near(request: Request) -> Response:
    """Answer with the neighbours of a unit, which the page asks for when it is there."""
    return await while_there(request, _near)


def _near(request: Request, gone: Event) -> Response:
    explorer: Explorer = request.app.state.explorer
    asked = asked_of(request.query_params)
    if asked is None:
        return RedirectResponse("/unit")
    unit = found(explorer, asked)
    known = neighbours_of(unit, of=explorer.cache.stored, gone=gone)
    return fragment(request, "unit_neighbours.html", {"unit": unit, "neighbours": known})


def _shown(unit: Unit, names: list[str]) -> dict[str, Any]:
    before, after = beside(tuple(unit.x.row_shape), unit.unit)
    return {
        "unit": unit,
        "spec": unit.x.source.spec,
        "beside": (before, after),
        "layers": layers_beside(unit.site, names),
        "statistics": statistics_of(unit),
        "distribution": distribution_of(unit) if unit.eager else None,
        "extremes": extremes_of(unit),
        "query": query_of(unit),
        "several_runs": len(unit.cache.snapshot.runs) > 1,
    }


ROUTES = [Route("/unit", show), Route("/unit/neighbours", near)]
"""What the application takes from here."""
