"""The page of `/sql`: a query of a person's own, its first rows, a chart of them."""

from __future__ import annotations

from threading import Event
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lazycache.errors import QueryError, ReadOnlyError
from lazycache.serve.answer_views import view_of
from lazycache.serve.answering import ask
from lazycache.serve.charts import FORMS
from lazycache.serve.downloads import WRITERS
from lazycache.serve.explorer import Explorer
from lazycache.serve.leaving import while_there
from lazycache.serve.rendering import page
from lazycache.serve.suggestions import suggested, tables

CHOICES = ("chart", "x", "y")
"""What a person may choose of the chart."""


async def show(request: Request) -> Response:
    """Answer a query, or show where to write one; what is wrong with it is said beside it."""
    return await while_there(request, _answered)


async def download(request: Request) -> Response:
    """Answer a query as a file: the same rows, with whole values."""
    return await while_there(request, _written)


def _answered(request: Request, gone: Event) -> Response:
    explorer: Explorer = request.app.state.explorer
    query = _query(request)
    known: dict[str, Any] = {
        "query": query,
        "forms": FORMS,
        "wanted": {name: request.query_params.get(name, "") for name in CHOICES},
        "suggested": suggested(explorer.cache),
        "tables": tables(explorer.cache),
        "limits": explorer.limits,
        "problem": None,
        "answer": None,
    }
    if not query.strip():
        return page(request, "sql.html", known)
    try:
        answer = ask(explorer, query, gone=gone)
    except (QueryError, ReadOnlyError) as exc:
        return page(request, "sql.html", {**known, "problem": str(exc)}, status=400)
    view = view_of(answer, explorer.limits, known["wanted"])
    return page(request, "sql.html", {**known, "answer": answer, "view": view})


def _written(request: Request, gone: Event) -> Response:
    explorer: Explorer = request.app.state.explorer
    ending = request.scope["path"].rpartition(".")[2]
    write, kind = WRITERS[ending]
    text = write(ask(explorer, _query(request), to_file=True, gone=gone))
    named = {"content-disposition": f'attachment; filename="answer.{ending}"'}
    return Response(text, media_type=kind, headers=named)


ROUTES = [Route("/sql", show), *(Route(f"/sql.{ending}", download) for ending in WRITERS)]
"""What the application takes from here."""


def _query(request: Request) -> str:
    """Return what was written: a browser sends ends of lines as the network has them."""
    return request.query_params.get("q", "").replace("\r\n", "\n")
