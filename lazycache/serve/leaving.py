"""Answers to readers who may leave before they are there: what nobody waits for is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from lazycache.errors import QueryError

LOOK_S = 0.1
"""How often who waits for a turn looks whether somebody still waits for them."""

LEFT = "Nobody waits for this any more."


async def while_there(request: Request, answer: Callable[[Request, Event], Response]) -> Response:
    """Return an answer that a thread works out.

    Args:
        request: Who asks.
        answer: Gets the request, and an event that is set when its reader has left.
    """
    gone = Event()
    watch = asyncio.create_task(_watched(request, gone))
    try:
        return await run_in_threadpool(answer, request, gone)
    finally:
        watch.cancel()


def check_there(gone: Event) -> None:
    """Stop where the reader has left.

    Raises:
        QueryError: they have.
    """
    if gone.is_set():
        raise QueryError(LEFT)


async def _watched(request: Request, gone: Event) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()
