"""Import and open: `python -m benchmarks.bench_open`.

How long a person waits before anything is asked: `import lazycache` beyond torch's own import, and
`lc.open` of a dataset of 1,000 shards, as 1,000 commits of one site and as 10 commits of 100 sites.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import lazycache as lc
from benchmarks.measure import machine, print_table, repeated

TIMES = 9


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


def dataset(folder: Path, *, commits: int, sites: int) -> str:
    """Write `commits` commits of `sites` shards each."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(sites)))
    names = [str(i) for i in range(sites)]
    url = str(folder / f"{commits}x{sites}")
    with torch.no_grad(), lc.capture(model, url, names) as run:
        for _ in range(commits):
            model(torch.zeros(2, 4))
            run.commit()
    return url


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
    print(machine())
    print_table(["what", "median"], rows)


if __name__ == "__main__":
    main()
