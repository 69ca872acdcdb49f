"""What one unit of all rows costs in tiles and in rows: `python -m benchmarks.bench_tiles`.

The same random bfloat16 matrices, of 768 and of 4,096 units, stored in rows and in tiles of 64 and
256 units, without statistics. Read are one unit of all rows (with the file in memory, from the disk
after its pages were dropped, and over `far://`, where every request waits 20 ms and bytes pass 200
MB/s), and what tiles make dearer: one row, a thousand rows anywhere, all of it. Beside them a plain
`np.memmap` of the same rows. Every value that is read is compared once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Way, compare
from benchmarks.far_store import counting
from benchmarks.limits import dropping

BATCH, UNIT = 4096, 300
WIDTHS, LAYOUTS = (768, 4096), ("row", "tile:64", "tile:256")
SITE = "0:out"

Read = Callable[[Any], Any]
"""Select of a site or of a map."""


def values_of(width: int, nbytes: int) -> torch.Tensor:
    """All rows: random bits that are no NaN."""
    generator = torch.Generator().manual_seed(width)
    shape = (nbytes // 2 // width, width)
    return torch.randint(0, 1 << 14, shape, dtype=torch.int16, generator=generator)


@dataclass(slots=True)
class Stored:
    """One matrix, in every layout and raw."""

    folder: Path
    values: torch.Tensor

    def path(self, layout: str) -> Path:
        """Where a layout is."""
        return self.folder / layout.replace(":", "-")

    def write(self, layout: str) -> None:
        """Store the rows."""
        model, path = torch.nn.Sequential(torch.nn.Identity()), self.path(layout)
        with lc.capture(model, path, "0", layout=layout, statistics=False, overwrite=True):
            for batch in torch.split(self.values.view(torch.bfloat16), BATCH):
                model(batch)

    def map(self) -> torch.Tensor:
        """Map the raw file."""
        shape = tuple(self.values.shape)
        return torch.from_numpy(np.memmap(self.folder / "raw", np.int16, "c", shape=shape))

    def check(self, layout: str) -> None:
        """Refuse to go on with other values."""
        with lc.open(self.path(layout)) as cache:
            found = cache[SITE]
            same(found.load(), self.values)
            same(found[:, UNIT].load(), self.values[:, UNIT])


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Refuse other values than were stored."""
    if not torch.equal(found.view(torch.int16), expected):
        raise SystemExit("other values than were stored")


def run(bench: Bench) -> Iterator[Comparison]:
    """Measure layouts beside each other."""
    os.environ["LAZYCACHE_CACHE_BYTES"] = "0"  # what comes from far away stays there
    nbytes = bench.size(64 << 20, 4 << 20)
    for width in WIDTHS:
        stored = Stored(bench.folder, values_of(width, nbytes))
        stored.values.numpy().tofile(bench.folder / "raw")
        yield from layouts(stored, bench=bench)
        shutil.rmtree(bench.folder)
        bench.folder.mkdir()


def layouts(stored: Stored, *, bench: Bench) -> Iterator[Comparison]:
    """What is done with each layout of a matrix."""
    rows, width = stored.values.shape
    nbytes, named = stored.values.nbytes, f"{width:,} units"
    ways = [Way(kind, "ours", lambda kind=kind: stored.write(kind)) for kind in LAYOUTS]  # type: ignore[misc]
    yield compare(f"{named}: write", ways, bench=bench, nbytes=nbytes)
    for layout in LAYOUTS:
        stored.check(layout)
    chosen = np.random.default_rng(0).integers(0, rows, 1000).tolist()
    reads: dict[str, tuple[Read, int]] = {
        "one unit": (lambda x: x[:, UNIT], rows * 2),
        "one row": (lambda x: x[rows // 2], width * 2),
        "1,000 rows": (lambda x: x[chosen], 1000 * width * 2),
        "all": (lambda x: x[:], nbytes),
    }
    for what, (read, count) in reads.items():
        yield compare(f"{named}: {what}", warm(stored, read), bench=bench, nbytes=count)
    cold = [anew(layout, stored, far=False) for layout in LAYOUTS]
    yield compare(f"{named}: one unit, cold", cold, bench=bench, nbytes=rows * 2)
    far = [anew(layout, stored, far=True) for layout in LAYOUTS]
    yield compare(f"{named}: one unit, far", far, bench=bench, nbytes=rows * 2)


def warm(stored: Stored, read: Read) -> Sequence[Way]:
    """Every layout, opened, in the page cache; and the map."""
    sites = {layout: lc.open(stored.path(layout))[SITE] for layout in LAYOUTS}
    mapped = stored.map()
    ways = [
        Way(layout, "ours", lambda site=site: read(site).load().clone())  # type: ignore[misc]
        for layout, site in sites.items()
    ]
    return [*ways, Way("np.memmap", "limit", lambda: read(mapped).clone())]


def anew(layout: str, stored: Stored, *, far: bool) -> Way:
    """One unit of a dataset that is opened anew, far away or from a disk that has to turn."""
    path = stored.path(layout)
    url = f"far://{path}" if far else str(path)

    def ask() -> None:
        with lc.open(url) as cache:
            cache[SITE][:, UNIT].load()

    way = Way(layout, "ours", ask)
    return counting(way) if far else Way(layout, "ours", ask, before=dropping(path))


if __name__ == "__main__":
    alone(run)
