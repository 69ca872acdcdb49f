"""The application: routes of all pages, and what stands before them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from lazycache.errors import LazycacheError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.serve import failing
from lazycache.serve.access import LOOPBACK, Access
from lazycache.serve.explorer import Explorer
from lazycache.serve.headers import SafeHeaders
from lazycache.serve.limits import Limits
from lazycache.serve.pages import example, overview, sql, unit

STATIC = Path(__file__).parent / "static"


def make_app(
    cache: ActivationCache,
    *,
    url: str,
    token: str | None,
    limits: Limits | None = None,
    hosts: Iterable[str] | None = LOOPBACK,
) -> Starlette:
    """Return the application over one dataset.

    Args:
        cache: The dataset.
        url: Where it is, as pages say it.
        token: What the first visit must bring, as `?token=`; None asks for nothing.
        limits: How much a question may take; None for the default.
        hosts: Names that requests may be addressed to; None: any.

    Cost: nothing is read before a page is asked for.

    Example:
        >>> from starlette.testclient import TestClient
        >>> from lazycache.samples import small_cache
        >>> app = make_app(small_cache(), url="acts", token=None)
        >>> TestClient(app, base_url="http://localhost").get("/").status_code
        200
    """
    routes = [
        *overview.ROUTES,
        *unit.ROUTES,
        *example.ROUTES,
        *sql.ROUTES,
        Mount("/static", StaticFiles(directory=STATIC), name="static"),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(SafeHeaders), Middleware(Access, token=token, hosts=hosts)],
        exception_handlers={LazycacheError: failing.ours, HTTPException: failing.theirs},
    )
    # beside the others: what is not an error of ours is shown, and raised to the server's log
    app.add_exception_handler(Exception, failing.unknown)
    app.state.explorer = Explorer(cache, url, limits or Limits())
    return app
