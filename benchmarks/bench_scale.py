"""How costs grow with a dataset: `python -m benchmarks.bench_scale [--long] [--json FILE]`.

Datasets of 100 and 1,000 shards (with `--long` 10,000 too) of one site, with statistics, ten shards
and one file per table to a commit; 256 rows of 64 units in a shard, so that the number of shards is
what counts and not their bytes. A new process, which has loaded all modules, opens each: time of
opening, of SQL with a filter that leaves 0.1 % of the rows (first, when the index of the tables is
built, and warm), and of the top 20 of a unit (first, and warm). Then the same over `far://`, where
every request waits and is counted. "time / ours" is beside the smallest dataset here: 10 for ten
times the shards is growth in proportion, 1 is none.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.child import in_fork
from benchmarks.comparing import Bench, Comparison, Measured
from benchmarks.far_store import counted
from benchmarks.query_data import Neurons, writer_of
from lazycache.samples import small_cache

ROWS, WIDTH = 256, 64
PER_COMMIT = 10
"""Shards, each as small as one that has statistics."""
SITE = "mlp_act_0"
ROUNDS, FAR_ROUNDS = 5, 1
"""Times that what is warm is asked, each time about another unit; delays are the same each time."""

WARM = "warm"
"""What is asked several times has it in its name."""

MODULES = ("benchmarks.bench_scale", "lazycache.samples", "duckdb")
"""What takes seconds to load; `ask` loads the rest before it measures."""

Cost = tuple[float, int, int]
"""Seconds, requests and bytes; both zero of a local folder."""
Costs = dict[str, Cost]
"""By what was asked."""


def run(bench: Bench) -> Iterator[Comparison]:
    """Ask datasets of ever more shards the same, in new processes."""
    sizes = (10,) if bench.smoke else (100, 1000)
    folders = {shards: bench.folder / str(shards) for shards in sizes + (10_000,) * bench.long}
    for shards, folder in folders.items():
        write(folder / "acts", shards)
    places = (("", ""), (", far away", "far://"))
    for place, scheme in places[bench.smoke :]:  # each starts processes, for the same questions
        # far away the delays are the same each time: fewer rounds show the same
        rounds = bench.rounds if not scheme else min(2, bench.rounds)
        asked = [
            {
                shards: ask_anew(f"{scheme}{folder / 'acts'}", folder / f"kept{number}{scheme[:3]}")
                for shards, folder in folders.items()
            }
            for number in range(rounds)
        ]
        yield from comparisons(asked, place)
    for folder in folders.values():
        shutil.rmtree(folder)


def comparisons(asked: list[dict[int, Costs]], place: str) -> Iterator[Comparison]:
    """One for each question: the datasets beside the smallest one."""
    for what in next(iter(asked[0].values())):
        ways = []
        for shards in asked[0]:
            costs = [costs[shards][what] for costs in asked]
            way = Measured(f"{shards:,} shards", "ours", [cost[0] for cost in costs])
            if place:
                _, way.requests, way.nbytes = costs[-1]
            ways.append(way)
        yield Comparison(f"{what}{place}", 0, ways)


def write(path: Path, shards: int) -> None:
    """Write a dataset."""
    neurons, rows = Neurons(WIDTH), ROWS * PER_COMMIT
    writer = writer_of(path, shard_bytes=ROWS * WIDTH * 2, chunk_rows=ROWS)
    for commit in range(shards // PER_COMMIT):
        columns, values = neurons.columns(commit * rows, rows), neurons.values(rows)
        writer.write(neurons.batch(columns, values, SITE))
        writer.commit()
    writer.close()


def ask(url: str) -> Costs:
    """Ask a dataset what is measured; the process has not opened it before."""
    caches: list[Any] = []
    rounds = FAR_ROUNDS if url.startswith("far://") else ROUNDS
    small_cache().top_k("resid_out_0", 0, k=1)  # loads DuckDB and all that questions need
    query = f"SELECT avg(unit({SITE}, ?)) FROM tokens WHERE token_id = 110"

    def top(unit: int) -> None:
        caches[0].top_k(SITE, unit, k=20)

    def filtered(unit: int) -> None:
        caches[0].sql(query, [unit]).fetchall()

    found = {"open": measured(lambda _: caches.append(lc.open(url)), times=1)}
    for what, action in (("SQL, filtered", filtered), ("top 20", top)):
        found[f"{what}, first"] = measured(action, times=1)
        found[f"{what}, {WARM}"] = measured(action, times=rounds)
    return found


def measured(action: Callable[[int], Any], *, times: int) -> Cost:
    """Median time of an action, with its mean requests and bytes."""
    before, took = counted(), []
    for number in range(times):
        start = time.perf_counter()
        action(number)
        took.append(time.perf_counter() - start)
    requests, nbytes = (now - then for now, then in zip(counted(), before, strict=True))
    return statistics.median(took), requests // times, nbytes // times


def ask_anew(url: str, kept: Path) -> Costs:
    """Ask in a process of its own, which finds no index of the tables."""
    answer = in_fork(
        "benchmarks.bench_scale:ask",
        url,
        modules=MODULES,
        environment={"LAZYCACHE_CACHE_DIR": str(kept)},
    )
    found: Costs = answer.result
    return found


if __name__ == "__main__":
    alone(run)
