"""A dataset that the tests of this folder read."""

import pytest

from lazycache.views.demo import run_demo


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """What `lazycache demo` stores, over a short text."""
    url = tmp_path_factory.mktemp("demo") / "demo"
    run_demo(str(url), characters=6000)
    return url
