"""What one unit of all rows costs in tiles and in rows.

Run `python -m benchmarks.bench_tiles [FOLDER]`.

The same random bfloat16 matrices, of 768 and of 4,096 units and 256 MiB each, stored in rows and in
tiles of 64 and 256 units. Read are one unit of all rows (with the file in memory, from the disk
after its pages were dropped, and over `far://`, where every request waits 20 ms and bytes pass 200
MB/s), and what tiles make dearer: one row, a thousand rows anywhere, all of it. Every value that is
read is compared.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import lazycache as lc
from benchmarks.far_store import LATENCY, PARALLEL, counted
from benchmarks.measure import machine, print_table, repeated, seconds

NBYTES, BATCH, UNIT, TIMES = 256 << 20, 4096, 300, 5
WIDTHS, LAYOUTS = (768, 4096), ("row", "tile:64", "tile:256")
SITE = "0:out"

Read = Callable[[lc.ActivationCache], torch.Tensor]


def values_of(width: int) -> torch.Tensor:
    """All rows: random bits that are no NaN."""
    generator = torch.Generator().manual_seed(width)
    shape = (NBYTES // 2 // width, width)
    return torch.randint(0, 1 << 14, shape, dtype=torch.int16, generator=generator)


def write(folder: Path, values: torch.Tensor, layout: str) -> float:
    """Store the rows; return the seconds that it took."""
    model = torch.nn.Sequential(torch.nn.Identity())

    def run() -> None:
        with lc.capture(model, folder, "0", layout=layout, statistics=False, overwrite=True):
            for batch in torch.split(values.view(torch.bfloat16), BATCH):
                model(batch)

    return seconds(run)


def reads(rows: int) -> dict[str, Read]:
    """What is asked of a layout once its file is in memory."""
    chosen = np.random.default_rng(0).integers(0, rows, 1000).tolist()
    return {
        "one unit": lambda cache: cache[SITE][:, UNIT].load(),
        "one row": lambda cache: cache[SITE][rows // 2].load(),
        "1,000 rows": lambda cache: cache[SITE][chosen].load(),
        "all": lambda cache: cache[SITE].load().clone(),
    }


def drop(folder: Path) -> None:
    """Take the files of a folder out of the page cache."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def check(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse to go on with other values."""
    if not torch.equal(found.view(torch.int16), expected):
        raise SystemExit("other values than were stored")


def measured(folder: Path, values: torch.Tensor, layout: str) -> list[object]:
    """Return a row of the table."""
    took, rows = write(folder, values, layout), len(values)
    cells: list[object] = [values.shape[1], layout, f"{took:.2f} s"]
    with lc.open(folder) as cache:
        check(cache[SITE][:, UNIT].load(), values[:, UNIT])
        check(cache[SITE].load(), values)
        for read in reads(rows).values():
            _, median, _ = repeated(lambda read=read: read(cache), times=TIMES)  # type: ignore[misc]
            cells.append(f"{1000 * median:.2f} ms")
    cold = []
    for _ in range(TIMES):
        drop(folder)
        with lc.open(folder) as cache:
            cold.append(seconds(lambda cache=cache: cache[SITE][:, UNIT].load()))  # type: ignore[misc]
    cells.append(f"{1000 * sorted(cold)[TIMES // 2]:.1f} ms")
    with lc.open(f"far://{folder}") as cache:
        requests, nbytes = counted()
        took = seconds(lambda: check(cache[SITE][:, UNIT].load(), values[:, UNIT]))
        asked, read_bytes = counted()
        cells.append(f"{asked - requests}, {(read_bytes - nbytes) / 1e6:.1f} MB, {took:.2f} s")
    return cells


def main() -> None:
    """Print the table."""
    os.environ["LAZYCACHE_CACHE_BYTES"] = "0"  # what comes from far away stays there
    chosen = sys.argv[1] if len(sys.argv) > 1 else None
    print(machine())
    print(f"far://: {1000 * LATENCY:.0f} ms for each request, {PARALLEL} at once\n")
    table = []
    with tempfile.TemporaryDirectory(dir=chosen) as folder:
        for width in WIDTHS:
            values = values_of(width)
            table += [measured(Path(folder) / "acts", values, layout) for layout in LAYOUTS]
    names = ["units", "layout", "write", *reads(1), "one unit, cold", "one unit, far"]
    print_table(names, table)


if __name__ == "__main__":
    main()
