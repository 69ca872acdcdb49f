"""How costs grow with a dataset: `python -m benchmarks.bench_scale [--plot FILE] [FOLDER]`.

Datasets of 100, 1,000 and 10,000 shards of one site, with statistics, ten shards and one file per
table to a commit; 256 rows of 64 units in a shard, so that the number of shards is what counts and
not their bytes. A new process, which has loaded all modules, opens each: time of opening, of SQL
with a filter that leaves 0.1 % of the rows (first, when the index of the tables is built, and
warm), and of the top 20 of a unit (first, and warm). Then the same over `far://`, where
every request waits and is counted. `--plot` draws the times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazycache as lc
from benchmarks.far_store import LATENCY, PARALLEL, counted
from benchmarks.measure import machine, print_table, seconds
from benchmarks.query_data import Neurons, writer_of
from lazycache.samples import small_cache

SHARDS = (100, 1_000, 10_000)
ROWS, WIDTH = 256, 64
PER_COMMIT = 10
"""Shards, each as small as one that has statistics."""
SITE = "mlp_act_0"
ROUNDS, FAR_ROUNDS = 5, 1
"""Times that what is warm is asked, each time about another unit; delays are the same each time."""

WARM = "warm"
"""What is asked several times has it in its name."""

Costs = dict[str, tuple[float, int, int]]
"""Seconds, requests and bytes by what was asked; both zero of a local folder."""


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


def measured(action: Callable[[int], Any], *, times: int) -> tuple[float, int, int]:
    """Median time of an action, with its mean requests and bytes."""
    before = counted()
    took = [seconds(lambda number=number: action(number)) for number in range(times)]
    requests, nbytes = (now - then for now, then in zip(counted(), before, strict=True))
    return statistics.median(took), requests // times, nbytes // times


def ask_anew(url: str, caches: Path) -> Costs:
    """Ask in a process of its own, which finds no index of the tables."""
    command = [sys.executable, "-m", "benchmarks.bench_scale", "--ask", url]
    environment = os.environ | {"LAZYCACHE_CACHE_DIR": str(caches)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: Costs = json.loads(done.stdout)
    return found


def table(costs: dict[int, Costs], show: Callable[[tuple[float, int, int]], str]) -> None:
    """Print a line for each thing that was asked, a column for each number of shards."""
    rows = [[what, *(show(costs[shards][what]) for shards in costs)] for what in costs[min(costs)]]
    print_table(["", *(f"{shards:,} shards" for shards in costs)], rows)


def text(spent: float) -> str:
    """Seconds as text."""
    return f"{spent * 1e3:.3g} ms" if spent < 10 else f"{spent:.3g} s"


def draw(near: dict[int, Costs], far: dict[int, Costs], path: Path) -> None:
    """Draw the times of both, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "lazycache"  # the same figure is the same file
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, costs, title in zip(axes, (near, far), ("local disk", "object store"), strict=True):
        for color, what in enumerate(dict.fromkeys(w.split(", ")[0] for w in costs[min(costs)])):
            lines(axis, costs, what, color=f"C{color}")
        axis.set(xscale="log", yscale="log", xlabel="shards", title=title)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def lines(axis: Any, costs: dict[int, Costs], what: str, *, color: str) -> None:
    """Draw what is asked first as a line, warm as a dashed one."""
    for name in (w for w in costs[min(costs)] if w.split(", ")[0] == what):
        style = "--" if name.endswith(WARM) else "-"
        spent = [costs[shards][name][0] for shards in costs]
        axis.plot(list(costs), spent, style, color=color, marker="o", label=name)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ask:
        print(json.dumps(ask(asked.ask)))
        return
    near: dict[int, Costs] = {}
    far: dict[int, Costs] = {}
    for shards in SHARDS:
        with tempfile.TemporaryDirectory(dir=asked.folder) as place:
            folder = Path(place)
            spent = seconds(lambda folder=folder, shards=shards: write(folder / "acts", shards))
            print(f"{shards:,} shards were written in {text(spent)}", file=sys.stderr)
            near[shards] = ask_anew(str(folder / "acts"), folder / "near")
            far[shards] = ask_anew(f"far://{folder / 'acts'}", folder / "far")
    print(machine())
    print("Local disk, in the page cache:")
    table(near, lambda cost: text(cost[0]))
    print(f"Object store, {LATENCY * 1e3:.0f} ms per request, {PARALLEL} at once:")
    table(far, lambda cost: f"{text(cost[0])}, {cost[1]:,} requests, {cost[2] / 1e6:.3g} MB")
    if asked.plot:
        draw(near, far, asked.plot)


if __name__ == "__main__":
    main()
