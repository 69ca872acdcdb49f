"""The page of one example: `/example?example=3&site=mlp_act_3&unit=412&layer=pattern_0&head=1`."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lazycache.faces.html import Html
from lazycache.pictures.marked_text import scale_of
from lazycache.serve.asked import layer_of
from lazycache.serve.attention_views import Alone, attention_of, patterns
from lazycache.serve.example_views import (
    ExampleAsked,
    asked_of,
    coloured,
    listed,
    other_table,
    plain,
    told,
)
from lazycache.serve.examples_there import Placed, named
from lazycache.serve.explorer import Explorer
from lazycache.serve.marked import scale, whole
from lazycache.serve.rendering import link, page
from lazycache.serve.units import asked_of as asked_unit
from lazycache.serve.units import found, sites_with_units
from lazycache.types import TOKENS


def show(request: Request) -> Response:
    """Answer with the page of an example, with the list of all, or with those that share an id."""
    explorer: Explorer = request.app.state.explorer
    asked = asked_of(request.query_params)
    sites = explorer.cache.stored
    kept = {"layer": asked.layer, "head": asked.head}
    if asked.example is None:
        shown = {"listed": listed(sites, asked.start), "kept": kept, "several": _several(explorer)}
        return page(request, "examples.html", shown)
    places = named(sites, asked.example, asked.run)
    if len(places) > 1:
        names = [one.name for one in places]
        kept |= {key: request.query_params.get(key) for key in ("site", "unit")}
        return page(request, "which_example.html", {"names": names, "kept": kept})
    return page(request, "example.html", _shown(request, explorer, asked, places[0]))


def _shown(
    request: Request, explorer: Explorer, asked: ExampleAsked, placed: Placed
) -> dict[str, Any]:
    brief, long = told(explorer.cache.stored, placed)
    layers = patterns(explorer.cache)
    attention = None
    if asked.layer is not None:
        attention = attention_of(
            explorer.cache, placed.name, layer_of(asked.layer), asked.head, asked.query
        )
    return {
        "placed": placed,
        "asked": asked,
        "brief": brief,
        "long": long,
        "names": sites_with_units(explorer),
        "layers": layers,
        "attention": attention,
        "looks": None
        if attention is None or attention.alone is None
        else _looks(request, attention.alone),
        "several": _several(explorer),
        **_text(request, explorer, placed),
    }


def _text(request: Request, explorer: Explorer, placed: Placed) -> dict[str, Any]:
    """Return the tokens, coloured by the unit that is asked for, and those of the other table."""
    sites = explorer.cache.stored
    asked = asked_unit(request.query_params)
    unit = None if asked is None else found(explorer, asked)
    painted = None if unit is None else coloured(unit, placed.name)
    table = unit.x.source.spec.table if unit is not None and unit.of_tokens else TOKENS
    passage = painted.passage if painted is not None else None
    if passage is None:
        passage = plain(sites, placed.name, table)
    most = scale_of([passage]) if passage is not None else 0.0
    other = other_table(sites, table)
    beside = None if other is None else plain(sites, placed.name, other)
    return {
        "unit": unit,
        "painted": painted,
        "passage": passage,
        "text": None if passage is None else whole(passage, most),
        "legend": None if passage is None or not passage.known else scale(most, [passage]),
        "other": None if beside is None else (other, whole(beside, 0.0)),
    }


def _looks(request: Request, alone: Alone) -> Html:
    """Return the tokens as one of them looks at them; each leads to what it looks at itself."""
    asked = dict(request.query_params)
    places = alone.keys.positions

    def to(place: int) -> str:
        return f"{link('/example', **{**asked, 'query': places[place]})}#head"

    return whole(alone.keys, scale_of([alone.keys]), link=to)


def _several(explorer: Explorer) -> bool:
    return len(explorer.cache.snapshot.runs) > 1


ROUTES = [Route("/example", show)]
"""What the application takes from here."""
