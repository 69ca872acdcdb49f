"""The odd dataset, asked without a socket and served on one: made once for all tests of pages."""

import pytest
from serve_helpers import odd_dataset, running
from starlette.testclient import TestClient

from lazycache.serve.app import make_app


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    """A dataset of two runs with odd tokens."""
    with odd_dataset(tmp_path_factory.mktemp("served") / "acts") as cache:
        yield cache


@pytest.fixture(scope="session")
def pages(odd):
    """Asks the pages of it: `pages.get("/unit?site=mlp_act_0")`."""
    return client(odd)


@pytest.fixture(scope="session")
def served(odd):
    """The address at which a server shows it."""
    with running(odd) as address:
        yield address


def client(cache):
    """Ask the pages of a cache, without a server."""
    return TestClient(make_app(cache, url="acts", token=None), base_url="http://127.0.0.1")
