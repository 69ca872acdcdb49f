"""Statistics by compiled loops, or by numpy: for what is measured in both ways.

A process compiles once it has seen a GiB of values of a dtype (`lazycache.writer.fused`), which a
benchmark does somewhere in its rounds: so it is done before the first one, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

from benchmarks.comparing import Way, absent
from lazycache.writer import statistics
from lazycache.writer.fused import COMPILER, Compiler


class _Never(Compiler):
    """A compiler that leaves everything to numpy."""

    def kernel(self, dtype: str, nbytes: int) -> None:
        """Return nothing."""


def compiles(*dtypes: str) -> bool:
    """Compile what computes the statistics of these dtypes; return whether that can be done."""
    if absent("numba"):
        return False
    return all(COMPILER.prepared(dtype) is not None for dtype in dtypes)


def by_numpy(run: Callable[[], object]) -> Callable[[], object]:
    """Return what does the same without compiled loops, on whatever threads."""

    def patched() -> object:
        with mock.patch.object(statistics, "COMPILER", _Never()):
            return run()

    return patched


def plainly(way: Way) -> Way:
    """Return the same way with statistics by numpy, as they are without `lazycache[fast]`."""
    name = f"{way.name}, by numpy"
    assert way.run is not None, "of ours"
    if absent("numba"):
        return Way(name, way.kind, None, skipped="numba is not installed: the line above is this")
    return replace(way, name=name, run=by_numpy(way.run), peak_rss=None)
