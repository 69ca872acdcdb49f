"""Import and open: `python -m benchmarks.bench_open`.

How long a person waits before anything is asked: `import lazycache` beyond torch's own import, and
`lc.open` of a dataset of 1,000 shards, as 1,000 commits of one site and as 10 commits of 100 sites.
Then 10,000 commits of 4 sites: what the first and the last hundred of them took, opening, the first
use of a site, and the requests of both over `far://`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import lazycache as lc
from benchmarks.far_store import LATENCY, counted
from benchmarks.measure import machine, print_table, repeated

TIMES = 9

MANY, SITES = 10_000, 4
"""Commits, and sites in each."""


def import_seconds(what: str, *, before: str) -> float:
    """Median time of an import in a fresh interpreter, with the files in the page cache."""
    program = (
        f"import time, {before}; s = time.perf_counter(); import {what}; "
        "print(time.perf_counter() - s)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(5)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def dataset(folder: Path, *, commits: int, sites: int, took: list[float] | None = None) -> str:
    """Write `commits` commits of `sites` shards each; `took` gets the seconds of each."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(sites)))
    names = [str(i) for i in range(sites)]
    url = str(folder / f"{commits}x{sites}")
    with torch.no_grad(), lc.capture(model, url, names) as run:
        for _ in range(commits):
            start = time.perf_counter()
            model(torch.zeros(2, 4))
            run.commit()
            if took is not None:
                took.append(time.perf_counter() - start)
    return url


def many(folder: Path) -> list[tuple[object, ...]]:
    """What a long log costs: appending, opening, the first use of a site, near and far."""
    took: list[float] = []
    url = dataset(folder, commits=MANY, sites=SITES, took=took)
    rows: list[tuple[object, ...]] = []
    for name, part in (("first", took[:100]), ("last", took[-100:])):
        most, typical = max(part), statistics.median(part)
        shown = f"{typical * 1e3:.1f} ms, the slowest {most * 1e3:.0f} ms"
        rows.append((f"a commit of {SITES} sites, the {name} hundred of {MANY:,}", shown))
    rows.append((f"the slowest of {MANY:,} commits (it packs them all)", f"{max(took):.2f} s"))
    low, median, high = repeated(lambda: lc.open(url), times=TIMES)
    what = f"lc.open, {MANY:,} commits of {SITES} sites, warm"
    rows.append((what, f"{median * 1e3:.0f} ms ({low * 1e3:.0f}-{high * 1e3:.0f})"))
    low, median, high = repeated(lambda: lc.open(url)["0:out"].shape, times=5)
    rows.append(
        ("the same and one site", f"{median * 1e3:.0f} ms ({low * 1e3:.0f}-{high * 1e3:.0f})")
    )
    os.environ["LAZYCACHE_CACHE_BYTES"] = "0"
    for what, ask in (
        ("", lambda: lc.open(f"far://{url}")),
        (" and one site", lambda: lc.open(f"far://{url}")["0:out"].shape),
    ):
        before, start = counted(), time.perf_counter()
        ask()
        spent = time.perf_counter() - start
        requests, nbytes = (now - then for now, then in zip(counted(), before, strict=True))
        shown = f"{requests} requests, {nbytes / 1e3:,.0f} kB, {spent * 1e3:.0f} ms"
        rows.append((f"lc.open{what}, {LATENCY * 1e3:.0f} ms a request", shown))
    return rows


def main() -> None:
    """Print the table."""
    alone = import_seconds("torch", before="sys")
    ours = import_seconds("lazycache", before="torch")
    rows: list[tuple[object, ...]] = [
        ("import torch", f"{alone * 1e3:.0f} ms"),
        ("import lazycache, after torch", f"{ours * 1e3:.0f} ms"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for commits, sites in ((1000, 1), (10, 100)):
            url = dataset(Path(folder), commits=commits, sites=sites)
            low, median, high = repeated(lambda url=url: lc.open(url), times=TIMES)
            what = f"lc.open, 1,000 shards in {commits:,} commits, warm"
            rows.append((what, f"{median * 1e3:.0f} ms ({low * 1e3:.0f}-{high * 1e3:.0f})"))
        rows += many(Path(folder))
    print(machine())
    print_table(["what", "median"], rows)


if __name__ == "__main__":
    main()
