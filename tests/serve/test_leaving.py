"""What is worked out for a reader who has left is ended."""

import asyncio
import threading

import pytest
from starlette.requests import Request
from starlette.responses import Response

from lazycache.errors import QueryError
from lazycache.serve import neighbours
from lazycache.serve.leaving import while_there
from lazycache.serve.units import UnitAsked, found


@pytest.mark.parametrize(("sent", "left"), [("http.disconnect", True), ("http.request", False)])
def test_an_answer_is_told_that_its_reader_has_left(sent, left):
    """The thread that works out an answer hears that the connection was closed; else never."""

    async def receive():
        if sent == "http.request":
            await asyncio.sleep(60)
        return {"type": sent}

    def answer(_, gone):
        return Response(str(gone.wait(5 if left else 0.05)))

    request = Request({"type": "http"}, receive)
    assert asyncio.run(while_there(request, answer)).body == str(left).encode()


def test_who_has_left_does_not_wait_for_neighbours(pages, odd):
    """Units that were gone through fast leave no queue behind: nothing is read for them."""
    unit = found(pages.app.state.explorer, UnitAsked("mlp_act_1", (3,)))
    gone = threading.Event()
    gone.set()
    before = odd.io.requests
    with neighbours._LOCK, pytest.raises(QueryError, match="Nobody waits"):
        neighbours.neighbours_of(unit, of=odd.stored, gone=gone)
    with pytest.raises(QueryError, match="Nobody waits"):
        neighbours.neighbours_of(unit, of=odd.stored, gone=gone)
    assert odd.io.requests == before
