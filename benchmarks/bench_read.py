"""Reading beside `np.memmap` and the usual formats: `python -m benchmarks.bench_read`.

150,000 rows of bfloat16, d=768 (230 MB), the same values in every format, in the page cache unless
an operation says cold. What takes microseconds is done several times in each round, and MB/s are of
all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Way, absent, compare
from benchmarks.formats import left_out, way_of
from benchmarks.read_data import LENGTH, WIDTH, Ours, drop, make
from benchmarks.read_peers import PEERS, Memmap

ROW_BYTES = WIDTH * 2


@dataclass(frozen=True, slots=True)
class Reading:
    """Something that is done with every format."""

    what: str
    action: Callable[[Any], object]
    rows: int
    """Rows that it is about, each time."""
    times: int = 1
    """How often it is done in a round."""
    goal: str = ""
    slow: tuple[str, ...] = ()
    """Who is measured in two rounds only."""


def run(bench: Bench) -> Iterator[Comparison]:
    """Read rows in every format, warm and cold."""
    rows = bench.size(150_000, 8_192)
    make(bench.folder / "raw", rows)
    raw = np.memmap(bench.folder / "raw", np.uint16, "r", shape=(rows, WIDTH))
    formats: list[Any] = [Ours(raw, bench.folder)]
    formats += [kind(raw, bench.folder) for kind, needs in PEERS.items() if not absent(needs)]
    del raw  # pages that are mapped are never cold
    for one in formats:
        one.open()
    for reading in readings(rows, bench):
        yield of_all(reading, formats, bench)
    yield from means(formats, rows, bench)
    for count in (50, bench.size(4096, 512)):
        yield cold(formats, rows, count, bench)
    for one in formats:
        one.close()


def readings(rows: int, bench: Bench) -> list[Reading]:
    """What is read from the page cache."""
    chosen = np.random.default_rng(0).integers(0, rows, 4096)
    first = rows // 2 // LENGTH * LENGTH
    often = bench.size(20, 1)
    return [
        Reading(
            "7,000 consecutive rows",
            lambda one: one.slice(100, 7100),
            7000,
            often,
            slow=("HF datasets",),
        ),
        Reading(
            "7,000 consecutive rows, and their sum",
            lambda one: total(one.slice(100, 7100)),
            7000,
            often,
            "np.memmap >= 0.9",
            ("HF datasets",),
        ),
        Reading(
            f"one example of {LENGTH} rows, copied",
            lambda one: one.slice(first, first + LENGTH).view(torch.int16).numpy().copy(),
            LENGTH,
            often,
        ),
        Reading(
            "4,096 random rows",
            lambda one: one.take(chosen),
            4096,
            bench.size(5, 1),
            "np.memmap >= 0.8",
            ("Arrow IPC", "zarr"),
        ),
        Reading(
            "the whole site into memory",
            lambda one: one.whole(),
            rows,
            goal="np.memmap >= 0.9",
            slow=("HF datasets", "zarr", "Arrow IPC"),
        ),
    ]


def total(values: torch.Tensor) -> object:
    """Read every word of values, on this thread: torch's would be waited for, not the memory."""
    return np.add.reduce(values.view(torch.int64).numpy(), axis=None)


def of_all(reading: Reading, formats: list[Any], bench: Bench) -> Comparison:
    """Measure one reading of all formats."""

    def doing(one: Any) -> Callable[[], object]:
        def often() -> None:
            for _ in range(reading.times):
                reading.action(one)

        return often

    ways = [way_of(one, doing(one), limit=Memmap) for one in formats] + left_out(PEERS)
    for way in ways:
        if way.name in reading.slow:
            way.rounds = 2
    count(ways[0], formats[0])
    what = reading.what + (f", {reading.times} times" if reading.times > 1 else "")
    nbytes = reading.rows * reading.times * ROW_BYTES
    return compare(what, ways, bench=bench, nbytes=nbytes, goal=reading.goal)


def means(formats: list[Any], rows: int, bench: Bench) -> Iterator[Comparison]:
    """The mean of every unit: from what is stored, and of what nothing is stored of."""
    able = [one for one in formats if hasattr(one, "mean")]
    for what, method in (
        ("float64 mean of every unit, from statistics", "mean"),
        ("float64 mean of every unit of x * 1, streamed", "streamed_mean"),
    ):
        ways = [way_of(one, getattr(one, method), limit=Memmap) for one in able]
        count(ways[0], formats[0])
        yield compare(what, ways, bench=bench, nbytes=rows * ROW_BYTES)


def cold(formats: list[Any], rows: int, count: int, bench: Bench) -> Comparison:
    """Random rows that are not in the page cache, by readers that were just opened."""
    generator = np.random.default_rng(1)
    chosen = {one.name: generator.integers(0, rows, count) for one in formats}

    def empty(one: Any) -> None:
        one.close()
        drop(one.paths)
        one.open()
        # others in each round: a disk has a cache of its own
        chosen[one.name] = generator.integers(0, rows, count)

    def taken(one: Any) -> object:
        return one.take(chosen[one.name])

    ways = []
    for one in formats:
        way = way_of(one, partial(taken, one), limit=Memmap)
        way.before = partial(empty, one)
        way.rounds = None if one.name in {Ours.name, Memmap.name} else 3
        ways.append(way)
    what = f"{count:,} random rows, cold"
    return compare(what, ways + left_out(PEERS), bench=bench, nbytes=count * ROW_BYTES)


def count(way: Way, ours: Ours) -> None:
    """Have a way tell what it reads: ranges and bytes."""
    assert way.run is not None, "ours is always there"
    way.run()
    ours.cache.io.reset()
    way.run()
    way.requests, way.nbytes = ours.cache.io.requests, ours.cache.io.bytes


if __name__ == "__main__":
    alone(run)
