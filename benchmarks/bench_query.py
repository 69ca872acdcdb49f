"""Questions beside other ways to ask them: `python -m benchmarks.bench_query [--real] [FOLDER]`.

280,000 rows of bfloat16, 768 units (430 MB), the same values everywhere; with `--real` as many
bytes of the neurons of SmolLM2 over real text. All ways take turns, each round asks about another
unit; what is printed is the median of the rounds, in brackets its multiple of ours. All files are
in the page cache, unless a table says cold. Answers are compared before they are timed. Peers that
are not installed are named.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.far_store import BANDWIDTH, LATENCY, PARALLEL, FarFileSystem, counted
from benchmarks.measure import machine, print_table, seconds
from benchmarks.query_data import Data, real, synthetic
from benchmarks.query_ours import Ours
from benchmarks.query_peers import PEERS, Pandas, drop, missing

ROWS, WIDTH = 280_000, 768
TOKENS = 140_000
"""Of real text: a layer of SmolLM2 has twice as many neurons as the synthetic one has units."""
ROUNDS, FEW = 7, 3
"""How often a question is asked; of one that takes a second, `FEW` times."""
UNITS = 100
LOOP = 16
"""Units that loops over units are timed with."""

Took = dict[str, list[float]]
"""Seconds of each round by way."""


@dataclass(frozen=True)
class Question:
    """A method that ways have, and what to call it with in each round."""

    what: str
    method: str
    arguments: Callable[[int], tuple[Any, ...]]
    options: dict[str, Any]


def questions(data: Data) -> list[Question]:
    """What is asked warm."""
    width, token = data.shape[1], data.rare_token(0.001)
    raw, random = data.raw(), np.random.default_rng(2)
    rows = random.integers(0, data.shape[0], 16)

    def unit(number: int) -> int:
        return 37 * number % width

    def vector(number: int) -> torch.Tensor:
        words = torch.from_numpy(np.array(raw[rows[number % len(rows)]]))
        return words.view(torch.bfloat16).float()

    def ask(
        what: str, method: str, arguments: Callable[[int], tuple[Any, ...]], **options: Any
    ) -> Question:
        return Question(what, method, arguments, options)

    return [
        ask("top 20 of a unit", "top", lambda n: (unit(n), 20)),
        ask("top 100 of a unit", "top", lambda n: (unit(n), 100)),
        ask("smallest 20 of a unit", "top", lambda n: (unit(n), 20), largest=False),
        ask(
            "top 20 of a unit, of one token (0.1 % of rows)",
            "top_of_token",
            lambda n: (unit(n), 20, token),
        ),
        ask("mean of a unit, of one token, SQL", "mean_of_token", lambda n: (unit(n), token)),
        ask("all values of one token, SQL", "rows_of_token", lambda _: (token,)),
        ask("means of all units by label (20)", "group_means", lambda _: ()),
        ask("20 nearest to a vector by cosine", "similar", lambda n: (vector(n), 20)),
        ask("largest dot product with a vector, SQL", "largest_dot", lambda n: (vector(n),)),
        ask("correlation of all units with the position", "correlations", lambda _: ()),
        ask(
            f"the same, unit by unit (of {LOOP} units)",
            "correlation_loop",
            lambda _: (range(LOOP),),
        ),
    ]


def in_turn(ways: dict[str, Callable[[int], Any]], *, compare: bool = True) -> Took:
    """Time ways to do the same in turn; round 0 warms up, and compares what they answer."""
    answers = {name: way(0) for name, way in ways.items()}
    if compare:
        check(answers)
    took: Took = {name: [] for name in ways}
    for number in range(1, ROUNDS + 1):
        for name, way in ways.items():
            if len(took[name]) < FEW or sum(took[name]) < 1:
                took[name].append(seconds(lambda way=way, number=number: way(number)))
    return took


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


def shown(took: Took, names: Iterable[str]) -> list[str]:
    """Cells: the median of ours with the smallest and largest; of others, and multiples of ours."""
    ours = statistics.median(took[Ours.name])
    cells = [f"{ms(ours)} ({min(took[Ours.name]) * 1e3:.3g}-{max(took[Ours.name]) * 1e3:.3g})"]
    for name in names:
        median = statistics.median(took[name]) if took.get(name) else None
        cells.append("-" if median is None else f"{ms(median)} ({median / ours:.3g})")
    return cells


def ms(spent: float) -> str:
    """Seconds as text."""
    return f"{spent * 1e3:.3g} ms" if spent < 10 else f"{spent:.3g} s"


def warm(data: Data, ours: Ours, peers: list[Any]) -> None:
    """Print what all ways are asked, and what ours reads for it."""
    names, rows = [peer.name for peer in peers], []
    for question in questions(data):
        able = [way for way in (ours, *peers) if hasattr(way, question.method)]
        ways = {way.name: calling(way, question) for way in able}
        took = in_turn(ways)
        ours.cache.io.reset()
        ways[ours.name](1)
        io = ours.cache.io
        read = f"{(io.bytes + io.statistics_bytes) / 1e6:.3g} MB, {io.requests}"
        rows.append([question.what, *shown(took, names)[:1], read, *shown(took, names)[1:]])
    print_table(["question", Ours.name, "it reads, requests", *names], rows)


def calling(way: Any, question: Question) -> Callable[[int], Any]:
    """Return what asks one way in a round."""
    method = getattr(way, question.method)
    return lambda number: method(*question.arguments(number), **question.options)


def hundred_units(data: Data, ours: Ours, peers: list[Any]) -> None:
    """Print median and worst of `UNITS` random units; of slow ways of fewer."""
    units = np.random.default_rng(3).choice(data.shape[1], UNITS, replace=False).tolist()
    rows = []
    for way in (ours, *peers):
        way.top(units[0], 20)
        took: list[float] = []
        for unit in units:
            if sum(took) < 5:
                took.append(seconds(lambda way=way, unit=unit: way.top(unit, 20)))
        rows.append([way.name, len(took), ms(statistics.median(took)), ms(max(took))])
    print_table(["top 20 of random units", "units", "median", "worst"], rows)


def alone(data: Data, ours: Ours, peers: list[Any]) -> None:
    """Print what is measured beside lazycache itself, or beside the memory of the machine."""
    token, width = data.rare_token(0.001), data.shape[1]
    memory = torch.from_numpy(data.raw()).view(torch.float32).flatten()
    queries = torch.cat([values[:1].float() for _, values in data.blocks(data.shape[0] // 16)])[:16]
    loops = {way.name: way for way in (ours, *peers) if hasattr(way, "correlation_loop")}
    pairs: list[tuple[str, str, float, Callable[[int], Any], Callable[[int], Any]]] = [
        (
            "SQL: mean of a unit over 0.1 % of the rows",
            "over all rows",
            1,
            lambda n: ours.mean_of_token(n, token),
            ours.mean_of_all,
        ),
        (
            "SQL: all values of 0.1 % of the rows",
            "a load of the whole site",
            1,
            lambda _: ours.rows_of_token(token),
            lambda _: ours.whole(),
        ),
        (
            "SQL: all values of 0.1 % of the rows",
            "of all rows, in SQL",
            1,
            lambda _: ours.rows_of_token(token),
            lambda _: ours.column_in_sql(),
        ),
        (
            "SQL: ORDER BY unit(...) DESC LIMIT 20",
            "with WHERE row >= 0",
            1,
            lambda n: ours.top_in_sql(n, 20),
            lambda n: ours.top_in_sql(n, 20, condition="WHERE row >= 0"),
        ),
        (
            "20 nearest to a vector",
            "reading all values from memory",
            1,
            lambda n: ours.similar(queries[n % 16], 20),
            lambda _: torch.dot(memory, memory),
        ),
        (
            "20 nearest to each of 16 vectors",
            "reading all values from memory, 16 times",
            16,
            lambda _: ours.similar_many(queries, 20),
            lambda _: torch.dot(memory, memory),
        ),
        *(
            (
                "correlation of all units with the position",
                f"unit by unit, {name} ({LOOP} units x {width // LOOP})",
                width / LOOP,
                lambda _: ours.correlations(),
                lambda _, way=way: way.correlation_loop(range(LOOP)),
            )
            for name, way in loops.items()
        ),
    ]
    rows = []
    for what, beside, times, mine, theirs in pairs:
        took = in_turn({Ours.name: mine, "beside": theirs}, compare=False)
        limit = times * statistics.median(took["beside"])
        ratio = limit / statistics.median(took[Ours.name])
        rows.append([what, *shown(took, ()), beside, ms(limit), f"{ratio:.3g}"])
    print_table(["lazycache", "median", "beside", "median", "times as fast"], rows)


def cold(ways: list[Any]) -> None:
    """Print the top 20 of a unit where nothing is in the page cache, opening included and not."""
    asked: Took = {way.name: [] for way in ways}
    opened: Took = {way.name: [] for way in ways}
    for number in range(1, ROUNDS + 1):
        for way in ways:
            if sum(asked[way.name]) > 5:
                continue
            way.close()
            gc.collect()  # pages that are mapped are never cold
            drop(way.paths)
            opening = seconds(way.reopen)
            asked[way.name].append(seconds(lambda way=way, number=number: way.top(37 * number, 20)))
            opened[way.name].append(opening + asked[way.name][-1])
    names = [way.name for way in ways[1:]]
    rows = [["asked alone", *shown(asked, names)], ["opened and asked", *shown(opened, names)]]
    print_table(["top 20 of a unit, cold", Ours.name, *names], rows)


def far_away(data: Data, folder: Path) -> None:
    """Print the same where every request waits: the time, and what is read."""
    lines: list[tuple[str, float, int, int]] = []

    def measured(what: str, action: Callable[[], Any]) -> None:
        before = counted()
        spent = seconds(action)
        requests, nbytes = (now - then for now, then in zip(counted(), before, strict=True))
        lines.append((what, spent, requests, nbytes))

    token, ways = data.rare_token(0.001), []
    for index in ("without", "with"):  # the tables of a dataset, on this machine
        if not ways:
            os.environ["LAZYCACHE_CACHE_DIR"] = str(folder / "other-caches")
        measured(
            f"lc.open and its tables, {index} an index",
            lambda: ways.append(Ours(data, folder, url=f"far://{data.url}")),
        )
        measured(f"first top 20 of a unit, {index} an index", lambda: ways[-1].top(5, 20))
        measured("top 20 of the next unit", lambda: ways[-1].top(42, 20))
    measured("top 100 of a unit", lambda: ways[-1].top(79, 100))
    measured("SQL: mean of a unit, of 0.1 % of rows", lambda: ways[-1].mean_of_token(5, token))
    measured("full scan of a raw file", lambda: scan(data))
    for way in ways:
        way.close()
    _, limit, _, most = lines[-1]
    rows = []
    for what, spent, requests, nbytes in lines:
        times = [f"{limit / spent:.3g}", f"{most / max(nbytes, 1):.3g}"]
        rows.append([what, ms(spent), times[0], requests, f"{nbytes / 1e6:.4g} MB", times[1]])
    print_table(["far away", "time", "scan / it", "requests", "read", "scan / it"], rows)
    link = f"the link has {BANDWIDTH / 1e6:.0f} MB/s"
    print(f"Each request waits {LATENCY * 1e3:.0f} ms, {PARALLEL} at once; {link}.")


def scan(data: Data) -> list[float]:
    """Read a raw file that is far away, and take the top 20 of one unit."""
    edges = list(range(0, data.nbytes, 8 << 20))
    stops = [*edges[1:], data.nbytes]
    parts = FarFileSystem().cat_ranges([str(data.raw_path)] * len(edges), edges, stops)
    words = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.bfloat16)
    top: list[float] = words.view(data.shape)[:, 5].float().topk(20).values.tolist()
    return top


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--real", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        folder = Path(place)
        os.environ["LAZYCACHE_CACHE_DIR"] = str(folder / "caches")
        data = (
            real(folder, tokens=TOKENS) if asked.real else synthetic(folder, rows=ROWS, width=WIDTH)
        )
        print(machine())
        print(f"{data.shape[0]:,} rows, {data.shape[1]:,} units, {data.nbytes / 1e6:.0f} MB")
        ours = Ours(data, folder)
        peers = [kind(data, folder) for kind, needs in PEERS.items() if not missing(needs)]
        cold([ours, *peers])
        hundred_units(data, ours, peers)
        warm(data, ours, [*peers, Pandas(data, folder)])
        alone(data, ours, peers)
        ours.close()
        far_away(data, folder)
    for kind, needs in PEERS.items():
        if missing(needs):
            print(f"{kind.name}: not measured, {needs} is not installed")


if __name__ == "__main__":
    main()
