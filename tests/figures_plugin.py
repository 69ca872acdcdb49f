"""`pytest --long`: the long form of the fault tests, and a table of what they counted.

A test asks the fixture `rounds` how often to do a thing, and tells the fixture `figures` what it
has counted; at the end of a run the sums are shown, also of several processes.
"""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="repeat the fault tests as often as the docs say"
    )


@pytest.fixture
def rounds(request):
    """A function of (short, long): how often to do a thing in this run."""
    chosen = request.config.getoption("--long")
    return lambda short, long: long if chosen else short


class Figures:
    """What tests have counted."""

    def __init__(self):
        self.counts = Counter()

    def add(self, what, count=1):
        """Count something: `figures.add("writers killed", 4)`; a sum of 0 is shown too."""
        self.counts[what] += count


def pytest_configure(config):
    config.stash[KEY] = Figures()


KEY = pytest.StashKey[Figures]()


@pytest.fixture
def figures(request):
    """What this run has counted; shown at its end."""
    return request.config.stash[KEY]


def pytest_sessionfinish(session):
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"] = dict(session.config.stash[KEY].counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for what, count in getattr(node, "workeroutput", {}).get("figures", {}).items():
        node.config.stash[KEY].add(what, count)


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[KEY].counts
    if counts:
        terminalreporter.section("figures")
        for what in sorted(counts):
            terminalreporter.line(f"{counts[what]:>12,}  {what}")
