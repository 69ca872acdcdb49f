"""What the writer alone costs, no model beside it: `python -m benchmarks.bench_write`.

One site of 768 units in chunks of 8,192 rows goes through `SiteLane`, which is what a writer's
thread does: index columns, pages, checksums, statistics, one file. It is taken apart: without the
checksum, without statistics, with both; statistics compiled, and by numpy. Beside it the same
blocks by `os.write`, a copy of them in memory, and every format that holds a matrix. On tmpfs
nothing waits for a disk; on the disk ours and the limit sync what they wrote, as a commit does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Took, Way, compare
from benchmarks.compiled import compiles, plainly
from benchmarks.limits import memcpy, raw_append
from benchmarks.write_peers import ROWS, counted, gone, peers
from lazycache.codec.checksum import crc32
from lazycache.codec.dtypes import as_bytes
from lazycache.codec.spec import spec_of
from lazycache.storage.local_store import LocalStore
from lazycache.storage.store import Store
from lazycache.types import SiteSpec
from lazycache.writer.parts import SitePart
from lazycache.writer.settings import Settings
from lazycache.writer.site_lane import SiteLane
from lazycache.writer.statistics import ShardStatistics
from lazycache.writer.writer import _WORKERS

UNITS = 768
SHARD = 256 << 20
SITES = 4
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Site:
    """Values to write, and the blocks that they go in."""

    values: torch.Tensor
    spec: SiteSpec
    parts: Sequence[SitePart]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes

    @property
    def blocks(self) -> list[memoryview]:
        """The values, a chunk at a time."""
        return [part.values for part in self.parts]


def site_of(dtype: torch.dtype, nbytes: int) -> Site:
    """Return random rows as a capture would hand them over: positions of one long example."""
    rows = nbytes // (UNITS * dtype.itemsize)
    values = torch.randn(rows, UNITS, generator=torch.Generator().manual_seed(0)).to(dtype)
    spec = spec_of("resid_out_0", "tokens", values)
    parts = []
    for start in range(0, rows, ROWS):
        part = values[start : start + ROWS]
        position = np.arange(start, start + len(part), dtype=np.int32)
        index: dict[str, np.ndarray] = {"position": position}
        index["example"] = np.zeros(len(part), np.int64)
        parts.append(SitePart(spec, as_bytes(part), index, len(part)))
    return Site(values, spec, parts)


def settings_of(*, statistics: bool) -> Settings:
    """Return the sizes of a capture, with one chunk for each part."""
    return Settings(
        queue_bytes=1 << 30,
        shard_bytes=SHARD,
        chunk_rows=ROWS,
        commit_bytes=1 << 40,
        commit_seconds=3600,
        rank=0,
        statistics=statistics,
    )


def write_site(
    spec: SiteSpec, parts: Sequence[SitePart], store: Store, *, statistics: bool
) -> None:
    """Write parts through one lane, in this thread."""
    settings = settings_of(statistics=statistics)
    lane = SiteLane(spec, store=store, settings=settings, free=lambda _: None)
    row = 0
    for part in parts:
        lane.add(part, row_start=row, sites=1)
        row += part.rows
    lane.finish()


def ours(site: Site, folder: Path, name: str, *, statistics: bool, checksum: bool = True) -> Way:
    """Return the writer as a way: one lane, in this thread, into a folder."""
    way = Way(name, "ours", None, before=lambda: gone(folder))

    def run() -> None:
        store = LocalStore(folder, create=True)
        write_site(site.spec, site.parts, store, statistics=statistics)

    def counting() -> None:
        if checksum:
            run()
        else:
            with mock.patch("lazycache.codec.pages.crc32", return_value=0):
                run()
        way.nbytes = counted(folder)

    way.run = counting
    return way


def several(site: Site, folder: Path) -> Way:
    """Return the same values as four sites, on as many threads as a writer has at most."""
    way = Way("lazycache, all, 4 sites", "ours", None, before=lambda: gone(folder))

    def run() -> None:
        store = LocalStore(folder, create=True)

        def write(number: int) -> None:
            spec = replace(site.spec, name=f"resid_out_{number}")
            parts = [replace(part, spec=spec) for part in site.parts[number::SITES]]
            write_site(spec, parts, store, statistics=True)

        with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
            list(pool.map(write, range(SITES)))
        way.nbytes = counted(folder)

    way.run = run
    return way


def limits(site: Site, folder: Path, *, sync: bool = False) -> list[Way]:
    """Return the same blocks by `os.write`, and a copy of them in memory."""
    return [raw_append(folder / "raw", site.blocks, sync=sync), memcpy(site.values)]


class Nowhere:
    """An upload that keeps nothing."""

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Drop the bytes."""

    def finish(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""


def computed(site: Site, *, statistics: bool) -> Took:
    """Compute checksums, and statistics if wanted: processor time of one thread."""
    taken = ShardStatistics(site.spec, "s", create=lambda _: Nowhere(), shard_bytes=SHARD)
    start = time.thread_time()
    for part in site.parts:
        crc32(part.values)
        if statistics:
            taken.add([(part.values, part.rows)])
    if statistics:
        taken.finish()
    spent = time.thread_time() - start
    return Took(spent, spent)


def on_memory(site: Site, folder: Path, dtype: str, bench: Bench) -> Comparison:
    """Write to tmpfs: what the layout, the checksum and the statistics add to the bytes."""
    ways = [
        ours(site, folder / "layout", "lazycache, layout", statistics=False, checksum=False),
        ours(site, folder / "crc", "lazycache, + CRC", statistics=False),
        both := ours(site, folder / "all", "lazycache, + statistics", statistics=True),
        plainly(both),
        *limits(site, folder),
        *peers(site.values, folder),
    ]
    for way in ways:  # tmpfs is memory: one of them at a time
        way.before = lambda: gone_all(folder)
    goal = "raw write >= 0.9"
    return compare(f"write {dtype}, tmpfs", ways, bench=bench, nbytes=site.nbytes, goal=goal)


def on_disk(site: Site, folder: Path, dtype: str, bench: Bench) -> Comparison:
    """Write and sync: what a commit waits for; of one site statistics have one thread only."""
    ways = [
        all_of := several(site, folder / "several"),
        plainly(all_of),
        ours(site, folder / "all", "lazycache, all, 1 site", statistics=True),
        ours(site, folder / "crc", "lazycache, 1 site, no statistics", statistics=False),
        *limits(site, folder, sync=True)[:1],
    ]
    goal = "raw write + fdatasync >= 0.9"
    return compare(f"write {dtype} + sync, disk", ways, bench=bench, nbytes=site.nbytes, goal=goal)


def per_core(site: Site, dtype: str, bench: Bench) -> Comparison:
    """Checksums and statistics alone, in processor time of one thread."""
    ways = [
        both := Way("lazycache, CRC + statistics", "ours", lambda: computed(site, statistics=True)),
        plainly(both),
        Way("lazycache, CRC", "ours", lambda: computed(site, statistics=False)),
        memcpy(site.values),
    ]
    name = f"numbers of {dtype}, one core"
    return compare(name, ways, bench=bench, nbytes=site.nbytes, goal="MB/s >= 1000")


def run(bench: Bench) -> Iterator[Comparison]:
    """Measure the writer beside raw writes and other formats."""
    memory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else bench.folder))
    try:
        for dtype in (torch.bfloat16, torch.float32):
            name = str(dtype).removeprefix("torch.")
            if not bench.smoke:
                compiles(name)
            site = site_of(dtype, bench.size(128 << 20, 2 << 20))
            yield on_memory(site, memory, name, bench)
            gone_all(memory)
            yield per_core(site, name, bench)
            yield on_disk(site, bench.folder, name, bench)
            gone_all(bench.folder)
    finally:
        shutil.rmtree(memory, ignore_errors=True)


def gone_all(folder: Path) -> None:
    """Remove what is in a folder."""
    for path in folder.iterdir():
        gone(path)


if __name__ == "__main__":
    alone(run)
