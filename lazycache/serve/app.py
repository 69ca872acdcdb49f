"""The application: routes of all pages, and what stands before them."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from lazycache.mapping.activation_cache import ActivationCache
from lazycache.serve.explorer import Explorer
from lazycache.serve.limits import Limits
from lazycache.serve.pages import example, overview, sql, unit

STATIC = Path(__file__).parent / "static"


def make_app(
    cache: ActivationCache, *, url: str, token: str | None, limits: Limits | None = None
) -> Starlette:
    """Return the application over one dataset.

    Args:
        cache: The dataset.
        url: Where it is, as pages say it.
        token: What the first request must bring; None asks for nothing.
        limits: How much a question may take.
    """
    routes = [
        *overview.ROUTES,
        *unit.ROUTES,
        *example.ROUTES,
        *sql.ROUTES,
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    app = Starlette(routes=routes)
    app.state.explorer = Explorer(cache, url, limits or Limits())
    app.state.token = token
    return app
