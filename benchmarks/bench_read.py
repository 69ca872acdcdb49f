"""Reading beside `np.memmap`: `python -m benchmarks.bench_read [FOLDER]`.

1,000,000 rows of bfloat16, d=768 (1.5 GB), in the page cache. Every operation alternates with its
counterpart on a plain memory map of the same values; the ratio is of medians.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import lazycache as lc
from benchmarks.measure import machine, print_table, seconds
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.open_store import open_store
from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

ROWS, WIDTH, LENGTH = 1_000_000, 768, 100
TIMES = 9


def make(folder: Path) -> tuple[lc.LazyTensor, np.memmap]:
    """Write the same values as a dataset and as a raw file."""
    url = str(folder / "acts")
    store = open_store(url, create=True, storage_options=None)
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
    raw = np.memmap(folder / "raw", np.uint16, "w+", shape=(ROWS, WIDTH))
    step = 10_000
    for start in range(0, ROWS, step):
        values = torch.randn(step, WIDTH).bfloat16()
        raw[start : start + step] = values.view(torch.uint16).numpy()
        rows = np.arange(start, start + step)
        ids = rows // LENGTH
        tokens = TableBlock(step, {"example": ids, "position": (rows % LENGTH).astype(np.int32)})
        own = np.unique(ids)
        examples = TableBlock(len(own), {"example": own, "length": np.full(len(own), LENGTH)})
        tables = {"tokens": tokens, "examples": examples}
        writer.write(RowBatch(tables, {"resid_out_0": SiteBlock("tokens", values)}))
    writer.close()
    raw.flush()
    return lc.open(url)["resid_out_0"], np.memmap(folder / "raw", np.uint16, "r", shape=raw.shape)


def as_torch(part: np.ndarray) -> torch.Tensor:
    """A copy of part of the map as a bfloat16 tensor."""
    return torch.from_numpy(np.ascontiguousarray(part)).view(torch.bfloat16)


def compare(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    """Medians of two ways, run in turn."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(TIMES)]
    return float(np.median([a for a, _ in pairs])), float(np.median([b for _, b in pairs]))


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        x, raw = make(Path(folder))
        chosen = np.random.default_rng(0).integers(0, ROWS, 4096)
        flat = x.rows
        cases: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("7,000 rows of one chunk", flat[100:7100].load, lambda: raw[100:7100]),
            (
                "7,000 rows of one chunk, and their sum",
                lambda: flat[100:7100].load().view(torch.int16).sum(),
                lambda: torch.from_numpy(raw[100:7100].view(np.int16)).sum(),
            ),
            ("one example of 100 rows", x[777].load, lambda: as_torch(raw[77700:77800])),
            ("4,096 random rows", flat[chosen].load, lambda: as_torch(raw[chosen])),
            ("the whole site (1.5 GB) into memory", flat.load, lambda: as_torch(np.array(raw))),
            (
                "float64 mean of every unit",
                lambda: x.mean("rows"),
                lambda: as_torch(raw).mean(0, dtype=torch.float64),
            ),
        ]
        rows = []
        for what, ours, theirs in cases:
            a, b = compare(ours, theirs)
            rows.append((what, f"{a * 1e3:.3g} ms", f"{b * 1e3:.3g} ms", f"{b / a:.2f}"))
    print(machine())
    print_table(["operation", "lazycache", "np.memmap", "speed, of memmap"], rows)


if __name__ == "__main__":
    main()
