"""Questions beside other ways to ask them: `python -m benchmarks.bench_query`.

125,000 rows of bfloat16, 768 units (192 MB), the same values everywhere; each time another unit is
asked about. All files are in the page cache, unless an operation says cold. Answers of all ways are
compared before they are timed. With `--long` the same is asked about the neurons of SmolLM2 over
real text.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Kind, Way, absent, compare
from benchmarks.far_store import LATENCY, FarFileSystem, counting
from benchmarks.formats import left_out, way_of
from benchmarks.query_data import Data, real, synthetic
from benchmarks.query_ours import Ours
from benchmarks.query_peers import PEERS, Memmap, Pandas
from benchmarks.read_data import drop

TOKENS = 50_000
"""Of real text: a layer of SmolLM2 has twice as many neurons as the synthetic one has units."""

SCAN_GOAL = "limit >= 63"
"""A top 20 where nothing is near, beside a scan of all values."""

ALL = PEERS | {Pandas: "pandas"}
"""Those that hold the values in a file, and the one that has them in its memory."""

RARE = 0.001
"""Share of all rows that are of one token, and thirty rows more: there is a top 20 of them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A method that ways have, and what to call it with each time."""

    what: str
    method: str
    arguments: Callable[[int], tuple[Any, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    goal: str = ""
    slow: tuple[str, ...] = ()
    """Who is asked twice only."""


def run(bench: Bench) -> Iterator[Comparison]:
    """Ask about single units, rows of a token, similar rows and groups; warm, cold and far away."""
    made = bench.folder / "made"
    made.mkdir()
    data = synthetic(made, rows=bench.size(125_000, 20_480), width=bench.size(768, 64))
    yield from about(data, made, bench, "")
    shutil.rmtree(made)
    if bench.long:
        made.mkdir()
        data = real(made, tokens=bench.size(TOKENS, 2_000))
        yield from about(data, made, bench, "SmolLM2: ")
        shutil.rmtree(made)


def about(data: Data, folder: Path, bench: Bench, prefix: str) -> Iterator[Comparison]:
    """Ask everything about one dataset."""
    ours = Ours(data, folder)
    kinds = [kind for kind, needs in PEERS.items() if not absent(needs)]
    ways: list[Any] = [ours, *(kind(data, folder) for kind in kinds)]
    yield cold(ways, data, bench, prefix)
    memory = [] if absent("pandas") else [Pandas(data, folder)]
    for question in questions(data):
        yield asked(question, [*ways, *memory], data, bench, prefix)
    yield from beside_itself(ours, data, bench, prefix)
    for way in ways:
        way.close()
    yield far_away(data, folder, bench, prefix)


def questions(data: Data) -> list[Question]:
    """What is asked warm."""
    width, token = data.shape[1], data.rare_token(RARE + 30 / data.shape[0])
    slow = ("DuckDB, Parquet lists",)

    def unit(number: int) -> int:
        return 37 * number % width

    vector = vectors(data)
    return [
        Question(
            "top 20 of a unit", "top", lambda n: (unit(n), 20), goal="seconds <= 0.005", slow=slow
        ),
        Question("top 100 of a unit", "top", lambda n: (unit(n), 100), slow=slow),
        Question(
            "smallest 20 of a unit", "top", lambda n: (unit(n), 20), {"largest": False}, slow=slow
        ),
        Question(
            "top 20 of a unit, of one token (0.1 % of rows)",
            "top_of_token",
            lambda n: (unit(n), 20, token),
            slow=slow,
        ),
        Question(
            "mean of a unit, of one token, SQL",
            "mean_of_token",
            lambda n: (unit(n), token),
            slow=slow,
        ),
        Question("all values of one token, SQL", "rows_of_token", lambda _: (token,), slow=slow),
        Question(
            "means of all units by label (20)", "group_means", lambda _: (), goal="best peer >= 1"
        ),
        Question(
            "20 nearest to a vector by cosine", "similar", lambda n: (vector(n), 20), slow=slow
        ),
        Question(
            "largest dot product with a vector, SQL",
            "largest_dot",
            lambda n: (vector(n),),
            slow=slow,
        ),
        Question(
            "correlation of all units with the position",
            "correlations",
            lambda _: (),
            slow=("DuckDB, wide Parquet",),
        ),
    ]


def vectors(data: Data) -> Callable[[int], torch.Tensor]:
    """Return what gives rows of the data as vectors to ask with."""
    raw = data.raw()
    rows = np.random.default_rng(2).integers(0, data.shape[0], 16)
    words = torch.from_numpy(np.array(raw[np.sort(rows)])).view(torch.bfloat16).float()
    return lambda number: words[number % len(words)]


def asked(question: Question, ways: list[Any], data: Data, bench: Bench, prefix: str) -> Comparison:
    """Put one question to all who can answer it."""
    able = [way for way in ways if hasattr(way, question.method)]
    check({way.name: calling(way, question)(0) for way in able})
    found = []
    for way in able:
        made = way_of(way, each(calling(way, question)), limit=Memmap)
        made.rounds = 2 if way.name in question.slow else None
        found.append(made)
    count_reads(found[0], able[0], lambda: calling(able[0], question)(1))
    return compare(
        prefix + question.what,
        found + left_out(ALL),
        bench=bench,
        nbytes=data.nbytes,
        goal=question.goal,
        warm=True,
    )


def calling(way: Any, question: Question) -> Callable[[int], Any]:
    """Return what asks one way for the n-th time."""
    method = getattr(way, question.method)
    return lambda number: method(*question.arguments(number), **question.options)


def each(action: Callable[[int], Any]) -> Callable[[], object]:
    """Return what asks about another unit each time."""
    numbers = count(2)  # the first answers were compared, the second ones counted
    return lambda: action(next(numbers))


def check(answers: dict[str, Any]) -> None:
    """Compare the answers of all ways with those of the first."""
    (first, expected), *others = answers.items()
    for name, answer in others:
        try:
            torch.testing.assert_close(
                *(torch.as_tensor(a).double().cpu() for a in (answer, expected)),
                rtol=2e-3,
                atol=1e-4,
            )
        except AssertionError as exc:
            raise AssertionError(f"{name} and {first} answer differently: {exc}") from exc


def beside_itself(ours: Ours, data: Data, bench: Bench, prefix: str) -> Iterator[Comparison]:
    """What is measured beside lazycache itself, or beside the memory of the machine."""
    token, vector = data.rare_token(RARE + 30 / data.shape[0]), vectors(data)
    memory = torch.from_numpy(data.raw()).view(torch.float32).flatten()
    queries = torch.stack([vector(n) for n in range(16)])
    loop = bench.size(16, 2)
    all_memory = "reading all values from memory"
    pairs: list[tuple[str, str, Kind, Callable[[int], Any], Callable[[int], Any], str]] = [
        (
            "SQL: mean of a unit over 0.1 % of the rows",
            "over all rows",
            "ours",
            lambda n: ours.mean_of_token(n, token),
            ours.mean_of_all,
            "over all rows >= 50",
        ),
        (
            "SQL: all values of 0.1 % of the rows",
            "a load of the whole site",
            "ours",
            lambda _: ours.rows_of_token(token),
            lambda _: ours.whole(),
            "a load of the whole site >= 50",
        ),
        (
            "SQL: ORDER BY unit(...) DESC LIMIT 20",
            "with WHERE row >= 0",
            "ours",
            lambda n: ours.top_in_sql(n, 20),
            lambda n: ours.top_in_sql(n, 20, condition="WHERE row >= 0"),
            "",
        ),
        (
            "20 nearest to a vector, beside memory",
            all_memory,
            "limit",
            lambda n: ours.similar(vector(n), 20),
            lambda _: torch.dot(memory, memory),
            "limit >= 0.7",
        ),
        (
            "20 nearest to each of 16 vectors, beside memory",
            f"{all_memory}, 16 times",
            "limit",
            lambda _: ours.similar_many(queries, 20),
            lambda _: [torch.dot(memory, memory) for _ in range(16)],
            "",
        ),
        (
            f"correlation of all units, beside {loop} of them one by one",
            "unit by unit, SQL",
            "ours",
            lambda _: ours.correlations(),
            lambda _: ours.correlation_loop(list(range(loop))),
            f"unit by unit, SQL >= {72 * loop / data.shape[1]:g}",  # 72 beside a loop over all
        ),
    ]
    for what, other, kind, mine, theirs, goal in pairs:
        found = [Way(Ours.name, "ours", each(mine)), Way(other, kind, each(theirs), rounds=3)]
        yield compare(prefix + what, found, bench=bench, nbytes=data.nbytes, goal=goal)


def cold(ways: list[Any], data: Data, bench: Bench, prefix: str) -> Comparison:
    """The top 20 of a unit where nothing is in the page cache, of what is just opened."""

    def empty(way: Any) -> None:
        way.close()
        drop(way.paths)
        way.reopen()

    def top(way: Any, number: int) -> object:
        return way.top(37 * number % data.shape[1], 20)

    found = []
    for way in ways:
        made = way_of(way, each(partial(top, way)), limit=Memmap)
        made.before = partial(empty, way)
        made.rounds = None if way.name in {Ours.name, Memmap.name} else 2
        found.append(made)
    what = f"{prefix}top 20 of a unit, cold"
    return compare(what, found + left_out(ALL), bench=bench, nbytes=data.nbytes, goal=SCAN_GOAL)


def far_away(data: Data, folder: Path, bench: Bench, prefix: str) -> Comparison:
    """The same where every request waits."""
    opened: list[Ours] = []
    numbers = count()

    def open_anew() -> None:
        for one in opened:
            one.close()
        # nothing is kept on this machine, of tables or of blocks
        os.environ["LAZYCACHE_CACHE_DIR"] = str(folder / f"far-{next(numbers)}")
        opened[:] = [Ours(data, folder, url=f"far://{data.url}")]

    def first_top() -> object:
        return opened[0].top(5, 20)

    kept = os.environ.get("LAZYCACHE_CACHE_DIR")
    found = compare(
        f"{prefix}top 20 of a unit, {LATENCY * 1e3:.0f} ms a request",
        [
            counting(Way(Ours.name, "ours", first_top, before=open_anew, rounds=3)),
            counting(Way("a scan of the raw values", "limit", lambda: scan(data), rounds=2)),
        ],
        bench=bench,
        nbytes=data.nbytes,
        goal=f"{SCAN_GOAL}; bytes of a scan of the raw values >= 63",
    )
    for one in opened:
        one.close()
    if kept is not None:
        os.environ["LAZYCACHE_CACHE_DIR"] = kept
    return found


def scan(data: Data) -> list[float]:
    """Read a raw file that is far away, and take the top 20 of one unit."""
    edges = list(range(0, data.nbytes, 8 << 20))
    stops = [*edges[1:], data.nbytes]
    parts = FarFileSystem().cat_ranges([str(data.raw_path)] * len(edges), edges, stops)
    words = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.bfloat16)
    top: list[float] = words.view(data.shape)[:, 5].float().topk(20).values.tolist()
    return top


def count_reads(way: Way, ours: Ours, action: Callable[[], object]) -> None:
    """Have a way tell what ours reads for one question."""
    io = ours.cache.io
    io.reset()
    action()
    way.requests, way.nbytes = io.requests, io.bytes + io.statistics_bytes


if __name__ == "__main__":
    alone(run)
