"""What went wrong, as a page: the message says what was asked, what is there and what to do."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lazycache.errors import (
    CorruptShardError,
    DatasetNotFoundError,
    LazycacheError,
    SiteNotFoundError,
    StorageError,
)
from lazycache.serve.headers import PAGE
from lazycache.serve.rendering import page

KINDS: tuple[tuple[type[LazycacheError], int, str], ...] = (
    (SiteNotFoundError, 404, "There is no such site"),
    (DatasetNotFoundError, 404, "There is no dataset any more"),
    (CorruptShardError, 500, "The dataset is damaged"),
    (StorageError, 502, "The store failed"),
)
"""Error, status and heading; any other is a question that cannot be answered as it stands."""

HEADINGS = {404: "There is no such page", 405: "This page is only for looking"}
"""What a status means where nothing better is known."""

DEFAULTS = {
    404: "Nothing is at {path}. The pages are the overview, units, examples and SQL.",
    405: "Pages are opened, and nothing is sent to them: an explorer changes nothing.",
}
"""What is said where nothing better is known."""


def status_of(error: LazycacheError) -> tuple[int, str]:
    """Return the status and the heading of the page about an error.

    Example:
        >>> status_of(SiteNotFoundError("x")), status_of(LazycacheError("x"))
        ((404, 'There is no such site'), (400, 'That cannot be answered'))
    """
    for kind, status, heading in KINDS:
        if isinstance(error, kind):
            return status, heading
    return 400, "That cannot be answered"


def ours(request: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    assert isinstance(error, LazycacheError)
    status, heading = status_of(error)
    return _page(request, heading, str(error), status)


def theirs(request: Request, error: Exception) -> Response:
    """Answer a page that is not there, and whatever else a page refuses."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    heading = HEADINGS.get(status, "That cannot be answered")
    said = error.detail
    if status in DEFAULTS and said == HTTPStatus(status).phrase:
        said = DEFAULTS[status].format(path=request.scope["path"])
    return _page(request, heading, said, status)


def unknown(request: Request, error: Exception) -> Response:
    """Answer what nobody expected: the terminal has the traceback, a page does not."""
    said = f"{type(error).__name__}: this is a fault of lazycache. The terminal says more."
    answer = _page(request, "This page failed", said, 500)
    answer.headers.update(PAGE)  # it is made outside of what adds them
    return answer


def _page(request: Request, heading: str, message: str, status: int) -> Response:
    return page(request, "error.html", {"heading": heading, "message": message}, status=status)
