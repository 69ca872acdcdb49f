"""The page of `/example`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lazycache.serve.rendering import page


def show(request: Request) -> Response:
    """Answer it."""
    return page(request, "example.html", {})


ROUTES = [Route("/example", show)]
"""What the application takes from here."""
