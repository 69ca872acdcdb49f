"""Reading beside `np.memmap` and the usual formats: `python -m benchmarks.bench_read [FOLDER]`.

1,000,000 rows of bfloat16, d=768 (1.5 GB), the same values in every format, in the page cache
unless an operation says cold. Operations of all formats alternate within one run; a ratio is of
medians, beside the memory map. Peers that are not installed are named.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lazycache as lc
from benchmarks.measure import machine, print_table, seconds
from benchmarks.read_peers import PEERS, Memmap, Peer, missing
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.open_store import open_store
from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

ROWS, WIDTH, LENGTH = 1_000_000, 768, 100
TIMES = 7


class Ours:
    """A lazycache dataset."""

    name = "lazycache"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        self.path = folder / "acts"
        store = open_store(str(self.path), create=True, storage_options=None)
        settings = Settings(
            queue_bytes=1 << 28,
            shard_bytes=256 << 20,
            chunk_rows=8192,
            commit_bytes=4 << 30,
            commit_seconds=600,
            rank=0,
        )
        empty = Snapshot.replay(create_dataset(store), [])
        writer = DatasetWriter(store, snapshot=empty, run=RunInfo("main", {}), settings=settings)
        step = 10_000
        for start in range(0, ROWS, step):
            values = torch.from_numpy(np.array(raw[start : start + step])).view(torch.bfloat16)
            writer.write(batch(start, values))
        writer.close()
        self.reopen()

    def reopen(self) -> None:
        """Open it again."""
        self.cache = lc.open(str(self.path))
        self.x = self.cache["resid_out_0"]
        self.flat = self.x.rows

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self.flat[start:stop].load()

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self.flat[rows].load()

    def whole(self) -> torch.Tensor:
        return self.flat.load()


def batch(start: int, values: torch.Tensor) -> RowBatch:
    """Rows as one forward pass gives them, in examples of `LENGTH` tokens."""
    rows = np.arange(start, start + len(values))
    ids = rows // LENGTH
    position = (rows % LENGTH).astype(np.int32)
    tokens = TableBlock(len(values), {"example": ids, "position": position})
    own = np.unique(ids)
    examples = TableBlock(len(own), {"example": own, "length": np.full(len(own), LENGTH)})
    return RowBatch(
        {"tokens": tokens, "examples": examples}, {"resid_out_0": SiteBlock("tokens", values)}
    )


def open_raw(folder: Path) -> np.memmap:
    """The matrix that every format holds."""
    return np.memmap(folder / "raw", np.uint16, "c", shape=(ROWS, WIDTH))


def make(folder: Path) -> None:
    """Write that matrix."""
    raw = np.memmap(folder / "raw", np.uint16, "w+", shape=(ROWS, WIDTH))
    generator = torch.Generator().manual_seed(0)
    step = 10_000
    for start in range(0, ROWS, step):
        values = torch.randn(step, WIDTH, generator=generator).bfloat16()
        raw[start : start + step] = values.view(torch.uint16).numpy()
    raw.flush()


def drop(path: Path) -> None:
    """Take a file, or the files of a folder, out of the page cache."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def operations() -> dict[str, Callable[[Peer], Any]]:
    """What is done with every format."""
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, ROWS, 4096)
    return {
        "7,000 consecutive rows": lambda peer: peer.slice(100, 7100),
        "the same, and their sum": lambda peer: peer.slice(100, 7100).view(torch.int16).sum(),
        "one example of 100 rows": lambda peer: peer.slice(77_700, 77_800).clone(),
        "4,096 random rows": lambda peer: peer.take(chosen),
        "the whole site into memory": lambda peer: peer.whole(),
    }


def interleaved(peers: list[Any], action: Callable[[Any], Any]) -> dict[str, float]:
    """Median seconds of one operation by format, the formats in turn."""
    took: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(TIMES + 1):
        for peer in peers:
            spent = seconds(lambda peer=peer: action(peer))
            if number:  # the first one warms up
                took[peer.name].append(spent)
    return {name: float(np.median(times)) for name, times in took.items()}


def mean_of(peer: Any, *, ours: Callable[[Any], Any]) -> Any:
    """The mean over all rows in float64, by our way or by torch over the map."""
    if isinstance(peer, Ours):
        return ours(peer.x)
    return peer.slice(0, ROWS).mean(0, dtype=torch.float64)


def memcpy_seconds(raw: np.memmap) -> float:
    """Median time to copy all bytes within memory, to memory that is new each time."""
    source = np.array(raw)
    took = [seconds(source.copy) for _ in range(TIMES + 1)]
    return float(np.median(took[1:]))


def line(what: str, took: dict[str, float], names: list[str]) -> list[str]:
    """One operation as cells: milliseconds, and speed beside the memory map."""
    limit = took[Memmap.name]
    return [
        what,
        *(
            f"{took[name] * 1e3:.3g} ms ({limit / took[name]:.2f})" if name in took else "-"
            for name in names
        ),
    ]


def cold_rows(folder: Path, count: int) -> dict[str, float]:
    """Random rows that are not in the page cache, by readers that were just opened."""
    generator = np.random.default_rng(1)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(TIMES):
        chosen = generator.integers(0, ROWS, count)
        drop(folder / "acts")
        with lc.open(str(folder / "acts")) as cache:
            rows = cache["resid_out_0"].rows
            ours.append(seconds(lambda rows=rows, chosen=chosen: rows[chosen].load()))
        drop(folder / "raw")
        raw = open_raw(folder)
        theirs.append(seconds(lambda raw=raw, chosen=chosen: raw[chosen]))
        del raw
    return {Ours.name: float(np.median(ours)), Memmap.name: float(np.median(theirs))}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        folder = Path(place)
        make(folder)
        raw = open_raw(folder)
        peers: list[Any] = [Ours(raw, folder)]
        peers[0].cache.close()
        del raw  # pages that are mapped are never cold
        cold = {count: cold_rows(folder, count) for count in (50, 4096)}
        raw = open_raw(folder)
        peers[0].reopen()
        peers += [kind(raw, folder) for kind in PEERS if not missing(kind)]
        names = [peer.name for peer in peers]
        rows = [
            line(what, interleaved(peers, action), names) for what, action in operations().items()
        ]
        for what, ours in (
            ("float64 mean of every unit, from statistics", lambda x: x.mean("rows")),
            ("float64 mean of every unit of x * 1, streamed", lambda x: (x * 1).mean("rows")),
        ):
            took = interleaved(peers[:2], partial(mean_of, ours=ours))
            rows.append(line(what, took, names))
        rows += [line(f"{n:,} random rows, cold", took, names) for n, took in cold.items()]
        copied = memcpy_seconds(raw)
    print(machine())
    print_table(["operation", *names], rows)
    print(f"memcpy of the whole site, to new memory: {copied * 1e3:.3g} ms")
    for kind in PEERS:
        if missing(kind):
            print(f"{kind.name}: not measured, {missing(kind)} is not installed")


if __name__ == "__main__":
    main()
