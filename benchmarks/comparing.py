"""Ways of doing one thing, measured in turn: what a stage of the benchmarks gives back.

A stage is a module `bench_NAME` with `run(bench)`, which yields one `Comparison` for each
operation. Run alone (`python -m benchmarks.bench_NAME`) or with all (`python -m benchmarks`), its
comparisons are shown as one table; ratios are those of the same round.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["ours", "peer", "limit"]


@dataclass(frozen=True, slots=True)
class Bench:
    """How much a stage does, and where it may write."""

    folder: Path
    """An empty folder of this stage on the disk that is measured."""
    smoke: bool = False
    """Whether it only has to be seen to run: tiny sizes, one round."""

    @property
    def rounds(self) -> int:
        """How often every way is measured, in turn."""
        return 1 if self.smoke else 5

    def size(self, full: int, smoke: int) -> int:
        """Return `full`, or `smoke` where it only has to run."""
        return smoke if self.smoke else full


@dataclass(slots=True)
class Way:
    """One way of doing it: ours, a peer's, or the limit of the machine."""

    name: str
    kind: Kind
    run: Callable[[], object] | None
    """What is timed; None where it is skipped."""
    skipped: str = ""
    """Why it is not measured: which package is absent, or what it cannot do."""
    before: Callable[[], object] | None = None
    """Done before each round, not timed: drop the page cache, remove what was written."""
    requests: int | None = None
    """Ranges asked for, where they are counted."""
    nbytes: int | None = None
    """Bytes read or written, where they are counted."""
    peak_rss: int | None = None
    """Bytes, of a process of its own, where it was measured."""
    note: str = ""


@dataclass(slots=True)
class Measured:
    """A way and how long it took in every round."""

    name: str
    kind: Kind
    seconds: list[float] = field(default_factory=list)
    skipped: str = ""
    requests: int | None = None
    nbytes: int | None = None
    peak_rss: int | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)


@dataclass(slots=True)
class Comparison:
    """One operation, done in several ways."""

    operation: str
    nbytes: int
    """Bytes of values that the operation is about: what MB/s are of."""
    ways: list[Measured]
    goal: str = ""
    """What ours is to reach beside another way: "limit >= 0.9"."""


def compare(
    operation: str, ways: Sequence[Way], *, bench: Bench, nbytes: int, goal: str = ""
) -> Comparison:
    """Measure the ways in turn, round after round, after one that is not counted."""
    took = [Measured(way.name, way.kind, skipped=way.skipped) for way in ways]
    for number in range(bench.rounds + (not bench.smoke)):
        for way, one in zip(ways, took, strict=True):
            if way.run is None:
                continue
            if way.before is not None:
                way.before()
            start = time.perf_counter()
            way.run()
            if number or bench.smoke:
                one.seconds.append(time.perf_counter() - start)
    for way, one in zip(ways, took, strict=True):
        one.requests, one.nbytes, one.note = way.requests, way.nbytes, way.note
        one.peak_rss = way.peak_rss
    return Comparison(operation, nbytes, took, goal)


Stage = Callable[[Bench], Iterator[Comparison]]


def absent(*packages: str) -> str:
    """Say which of these packages is not there; empty if all are."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed (extra bench)" if missing else ""
