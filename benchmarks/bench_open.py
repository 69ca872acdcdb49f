"""Import, open and append: `python -m benchmarks.bench_open [--long]`.

How long a person waits before anything is asked: `import lazycache` beyond torch's own import, and
`lc.open` of a dataset of 1,000 shards, as 1,000 commits of one site and as 10 commits of 100 sites.
Then many commits of 4 sites (1,000, with `--long` 10,000): what the first and the last of them
took, opening, the first use of a site, and the requests of both over `far://`. Beside it Lance,
which lists all files in every version. The limit of opening is a read of the log's files.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Kind, Measured, Took, Way, absent, compare
from benchmarks.far_store import counting

SITES = 4
"""Sites of every commit, where there are many commits."""
ENDS = 10
"""The first and the last tenth of the commits are set beside each other."""


def run(bench: Bench) -> Iterator[Comparison]:
    """Measure what comes before anything is asked."""
    os.environ["LAZYCACHE_CACHE_BYTES"] = "0"  # nothing that was read far away is kept
    yield compare("import", imports(), bench=bench, nbytes=0)
    for commits, sites in ((bench.size(1000, 10), 1), (bench.size(10, 1), bench.size(100, 10))):
        url, _ = dataset(bench.folder, commits=commits, sites=sites)
        what = f"open, {commits * sites:,} shards in {commits:,} commits"
        yield compare(what, opening(url), bench=bench, nbytes=0, goal="seconds <= 0.1")
        shutil.rmtree(url)
    yield from many(bench)


def imports() -> list[Way]:
    """Imports in fresh interpreters, with the files in the page cache."""
    pending: dict[str, deque[Took]] = {"torch": deque(), "lazycache": deque()}

    def took(module: str) -> Took:
        """What a module took in the next interpreter, which is asked for both."""
        if not pending[module]:
            for name, one in imported(*pending).items():
                pending[name].append(one)
        return pending[module].popleft()

    ways = [
        Way("import lazycache, after torch", "ours", lambda: took("lazycache")),
        Way("import torch", "limit", lambda: took("torch")),
    ]
    for way in ways:
        way.rounds = 3  # each waits for torch
    return ways


def imported(*modules: str) -> dict[str, Took]:
    """Import one module after the other in a new interpreter; return what each took."""
    program = (
        "import importlib, sys, time\n"
        "for name in sys.argv[1:]:\n"
        "    start, cpu = time.perf_counter(), time.process_time()\n"
        "    importlib.import_module(name)\n"
        "    print(name, time.perf_counter() - start, time.process_time() - cpu)\n"
    )
    command = [sys.executable, "-c", program, *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line.split() for line in done.stdout.splitlines())
    return {name: Took(float(seconds), float(cpu)) for name, seconds, cpu in lines}


def dataset(folder: Path, *, commits: int, sites: int) -> tuple[str, list[float]]:
    """Write `commits` commits of `sites` shards each; return where, and the seconds of each."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(sites)))
    names = [str(i) for i in range(sites)]
    url, took = str(folder / f"{commits}x{sites}"), []
    with torch.no_grad(), lc.capture(model, url, names) as capture:
        for _ in range(commits):
            start = time.perf_counter()
            model(torch.zeros(2, 4))
            capture.commit()
            took.append(time.perf_counter() - start)
    return url, took


def opening(url: str) -> list[Way]:
    """Opening, and reading what it has to read."""
    log = Path(url) / "_log"
    files = [one for one in log.rglob("*") if one.is_file()]

    def read() -> None:
        for file in files:
            file.read_bytes()

    return [
        Way("lazycache", "ours", lambda: lc.open(url)),
        Way("read all files of the log", "limit", read),
    ]


@dataclass(slots=True)
class Lance:
    """The same commits as fragments of a Lance dataset: a row of four columns in each."""

    path: Path

    def write(self, commits: int) -> list[float]:
        """Append one fragment after the other; return the seconds of each."""
        import lance
        import numpy as np
        import pyarrow as pa

        values = pa.FixedSizeListArray.from_arrays(np.zeros(8, np.float32), 4)
        table = pa.table({str(i): values for i in range(SITES)})
        took = []
        for _ in range(commits):
            start = time.perf_counter()
            lance.write_dataset(table, self.path, mode="append")
            took.append(time.perf_counter() - start)
        return took

    def open(self) -> Any:
        """Open the newest version."""
        import lance

        return lance.dataset(self.path)


def many(bench: Bench) -> Iterator[Comparison]:
    """What a long log costs: appending, opening, the first use of a site, near and far."""
    commits = 10_000 if bench.long else bench.size(1000, 20)
    url, took = dataset(bench.folder, commits=commits, sites=SITES)
    lance, why = Lance(bench.folder / "lance"), absent("lance")
    theirs = [] if why else lance.write(commits)
    appended = [*ends("lazycache", took, kind="ours"), *ends("Lance", theirs, kind="peer", why=why)]
    goal = f"lazycache, the first {max(1, commits // ENDS)} <= 1.25"  # O(new), not O(all)
    yield Comparison(f"one of {commits:,} commits", 0, appended, goal)
    ways = opening(url)
    ways.insert(1, Way("Lance", "peer", None if why else lance.open, skipped=why))
    what = f"open, {commits:,} commits of {SITES} sites"
    yield compare(what, ways, bench=bench, nbytes=0, goal="seconds <= 0.1")
    near = [Way("lazycache", "ours", lambda: first_use(url))]
    yield compare(f"the same and one site's shape, {commits:,}", near, bench=bench, nbytes=0)
    asked: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("open", lc.open),
        ("open and one site's shape", first_use),
    )
    for what, ask in asked:
        far = counting(Way("lazycache", "ours", lambda ask=ask: ask(f"far://{url}")))  # type: ignore[misc]
        far.rounds = 3  # the delays are the same each time
        yield compare(f"{what}, far away, {commits:,}", [far], bench=bench, nbytes=0)
    shutil.rmtree(url)
    shutil.rmtree(lance.path, ignore_errors=True)


def first_use(url: str) -> object:
    """Open and look at one site, which reads what says whose rows its shards are."""
    with lc.open(url) as cache:
        return cache["0:out"].shape


def ends(name: str, took: list[float], *, kind: Kind, why: str = "") -> list[Measured]:
    """Set the last tenth of the commits beside the first: does a long log make them dearer?"""
    if why:
        return [Measured(name, kind, skipped=why)]
    count = max(1, len(took) // ENDS)
    last = Measured(f"{name}, the last {count}", kind, seconds=took[-count:], note=slowest(took))
    return [last, Measured(f"{name}, the first {count}", kind, seconds=took[:count])]


def slowest(took: list[float]) -> str:
    """Say how long the slowest commit took, and the typical one."""
    middle = statistics.median(took)
    return f"the slowest of all took {max(took) * 1e3:,.0f} ms, the median {middle * 1e3:.1f} ms"


if __name__ == "__main__":
    alone(run)
