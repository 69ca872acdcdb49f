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
    long: bool = False
    """Whether what takes many minutes is measured too."""

    @property
    def rounds(self) -> int:
        """How often every way is measured, in turn."""
        return 1 if self.smoke else 5

    def size(self, full: int, smoke: int) -> int:
        """Return `full`, or `smoke` where it only has to run."""
        return smoke if self.smoke else full


@dataclass(frozen=True, slots=True)
class Took:
    """What a way returns that has measured itself: in a child, or a part of what it did."""

    seconds: float
    cpu: float


@dataclass(slots=True)
class Way:
    """One way of doing it: ours, a peer's, or the limit of the machine."""

    name: str
    kind: Kind
    run: Callable[[], object] | None
    """What is timed; None where it is skipped. If it returns `Took`, that is what counts."""
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
    rounds: int | None = None
    """Fewer rounds, for what takes very long: the first ones, and none before that is not
    counted."""


@dataclass(slots=True)
class Measured:
    """A way and how long it took in every round."""

    name: str
    kind: Kind
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Processor time of the same rounds, of all threads."""
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
    operation: str,
    ways: Sequence[Way],
    *,
    bench: Bench,
    nbytes: int,
    goal: str = "",
    warm: bool = False,
) -> Comparison:
    """Measure the ways in turn, round after round, after one that is not counted.

    Every round begins with the next way, so that none always comes after the same other one.

    Args:
        operation: what is done, as the table names it; unique in its stage.
        ways: who does it. Ratios and the goal are about the first of ours.
        bench: how many rounds.
        nbytes: bytes of values that the operation is about; 0 where MB/s mean nothing.
        goal: see `benchmarks.goals`: "limit >= 0.9", "best peer >= 3; forward only <= 1.05".
        warm: whether all have just done it, to be compared: no round before those that count.
    """
    took = [Measured(way.name, way.kind, skipped=way.skipped) for way in ways]
    pairs = [(way, one) for way, one in zip(ways, took, strict=True) if way.run is not None]
    if not bench.smoke and not warm:
        for way, _ in pairs:
            if way.rounds is None:
                once(way)
    for number in range(bench.rounds):
        turn = number % max(1, len(pairs))
        for way, one in pairs[turn:] + pairs[:turn]:
            if way.rounds is None or number < way.rounds:
                seconds, cpu = once(way)
                one.seconds.append(seconds)
                one.cpu.append(cpu)
    for way, one in zip(ways, took, strict=True):  # a way may have counted while it ran
        one.requests, one.nbytes, one.note = way.requests, way.nbytes, way.note
        one.peak_rss = way.peak_rss
    return Comparison(operation, nbytes, took, goal)


def once(way: Way) -> tuple[float, float]:
    """Do it once; return the wall and the processor time of what is timed."""
    if way.run is None:
        raise ValueError(f"{way.name} cannot be run: {way.skipped}")
    if way.before is not None:
        way.before()
    start, cpu = time.perf_counter(), time.process_time()
    done = way.run()
    if isinstance(done, Took):
        return done.seconds, done.cpu
    return time.perf_counter() - start, time.process_time() - cpu


Stage = Callable[[Bench], Iterator[Comparison]]


def absent(*packages: str) -> str:
    """Say which of these packages is not there; empty if all are."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} is not installed (extra bench)" if missing else ""
