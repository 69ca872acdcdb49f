"""What every answer says to the browser: run and load nothing but our own files."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No script and no style in a page runs, whatever a token says; nothing comes from elsewhere."""

ALWAYS: Mapping[str, str] = MappingProxyType(
    {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
    }
)
"""Headers of every answer."""

PAGE: Mapping[str, str] = MappingProxyType({**ALWAYS, "cache-control": "no-store"})
"""Headers of a page, which shows a dataset: nobody keeps it."""

FILE: Mapping[str, str] = MappingProxyType({**ALWAYS, "cache-control": "no-cache"})
"""Headers of a file of this package: it is asked for again each time, and mostly not sent."""


class SafeHeaders:
    """Adds the headers to every answer of an application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_file = scope["type"] == "http" and scope["path"].startswith("/static/")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(FILE if is_file else PAGE)
            await send(message)

        await self._app(scope, receive, with_headers)
