"""Who may ask: a browser that was shown the token, at an address that is this machine's."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from urllib.parse import quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lazycache.serve.rendering import page

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
"""What a browser on this machine calls it."""

PUBLIC = "/static/"
"""Files of this package, which anybody has: the page that refuses needs them."""

WITHOUT_IT = (
    "This explorer answers only who has its link. Open the link that `lazycache serve` printed "
    "where it was started: it ends in ?token=… A link that somebody sent you needs it too, once."
)
WITH_ANOTHER = (
    "The token of this link is not that of this explorer, which may have been started again since. "
    "Open the link that `lazycache serve` printed last."
)
WRONG_HOST = (
    "This explorer was asked under the name {host!r}, which is not its own: it answers as {known}. "
    "Another name may be a trap set by a page; start it with --host NAME if it is yours."
)
ELSEWHERE = "A page of another site asked for this. Open it yourself."

_HOST = re.compile(r"(?:\[([0-9a-f:.%]+)\]|([^:/?#@\[\]\\\s]+))(?::[0-9]*)?")
"""A name or an address, and a port: no more, which others would read in another way."""


class Access:
    """Lets through who may ask; everybody else gets a page that says what to do.

    The first visit brings `?token=`: it sets a cookie and leads to the same address without the
    token, so that it is neither in the history of pages nor in links that are passed on.

    Args:
        app: What is behind it.
        token: What the first visit must bring; None asks for none.
        hosts: Names that a request may be addressed to, without ports; None: any. A page whose
            name was made to mean this machine (DNS rebinding) is refused by them.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Iterable[str] | None) -> None:
        self._app = app
        self._token = token
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Request(scope, receive))
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        """Return what a request gets in place of its answer; None: it may have that."""
        host = host_of(request.headers)
        if self._hosts is not None and host not in self._hosts:
            known = " or ".join(sorted(self._hosts))
            return _refused(request, WRONG_HOST.format(host=host, known=known), status=421)
        if _is_from_elsewhere(request.headers):
            return _refused(request, ELSEWHERE)
        # the path that is routed: what `request.url` says follows from the Host header too
        if self._token is None or request.scope["path"].startswith(PUBLIC):
            return None
        return self._asked_for_token(request, self._token)

    def _asked_for_token(self, request: Request, token: str) -> Response | None:
        name, value = cookie(token)
        brought = request.query_params.get("token")
        if brought is not None and _same(brought, token):
            answer = RedirectResponse(_without_token(request), status_code=303)
            answer.set_cookie(name, value, httponly=True, samesite="strict", path="/")
            return answer
        if any(_same(one, value) for one in _cookies(request.headers, name)):
            return None
        if brought is not None:
            return _refused(request, WITH_ANOTHER)
        return _refused(request, WITHOUT_IT, again=_without_token(request))


def host_of(headers: Headers) -> str:
    """Return the name that a request is addressed to, without its port; "" where it is none.

    Example:
        >>> host_of(Headers({"host": "LocalHost:8765"})), host_of(Headers({"host": "[::1]:80"}))
        ('localhost', '::1')
        >>> host_of(Headers({"host": "localhost:1/static/?"}))
        ''
    """
    found = _HOST.fullmatch(headers.get("host", "").strip().lower())
    return "" if found is None else found[1] or found[2]


def cookie(token: str) -> tuple[str, str]:
    """Return the name and the value of the cookie of who has the token.

    The value is not the token, and follows from it: who was let in stays so when an explorer is
    started again with the same one. Ports share cookies, so the name is of the token too.

    Example:
        >>> cookie("a") == cookie("a"), cookie("a")[0] == cookie("b")[0], "a" in cookie("a")
        (True, False, False)
    """
    name, value = (
        hmac.new(token.encode(), what, "sha256").hexdigest() for what in (b"name", b"value")
    )
    return f"lazycache_{name[:8]}", value


def _same(one: str, other: str) -> bool:
    """Compare in a time that says nothing of where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def _cookies(headers: Headers, name: str) -> list[str]:
    """Return the values of the cookies of a name, whatever those of others on this machine are."""
    pairs = (one.strip().partition("=") for one in headers.get("cookie", "").split(";"))
    return [value for called, _, value in pairs if called == name]


def _is_from_elsewhere(headers: Headers) -> bool:
    """Whether another page asks, as browsers say it; a link that is followed is none.

    Other ports of this machine are the same site to a browser, which then sends the cookie too.
    """
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    return site in {"cross-site", "same-site"} and mode != "navigate"


def _without_token(request: Request) -> str:
    """Return path and query of a request without its token: never an address elsewhere."""
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
    # `//host` and `/\\host` would be another site
    path = "/" + quote(request.scope["path"].lstrip("/"))
    return f"{path}?{urlencode(query)}" if query else path


def _refused(
    request: Request, message: str, *, status: int = 403, again: str | None = None
) -> Response:
    known = {"heading": "Not let in", "message": message, "again": again}
    return page(request, "refused.html", known, status=status)
