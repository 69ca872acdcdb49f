"""What `bench_read` reads: rows of bfloat16 in examples, as a raw matrix and as a dataset."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

import lazycache as lc
from benchmarks.query_data import writer_of
from lazycache.types import RowBatch, SiteBlock, TableBlock

WIDTH = 768
"""Units of a row."""

LENGTH = 100
"""Rows of an example."""

STEP = 10_000
"""Rows that are made, and written, at a time."""

SITE = "resid_out_0"


def make(path: Path, rows: int) -> None:
    """Write the matrix that every format holds, as words: numpy has no bfloat16."""
    raw = np.memmap(path, np.uint16, "w+", shape=(rows, WIDTH))
    generator = torch.Generator().manual_seed(0)
    for start in range(0, rows, STEP):
        values = torch.randn(min(STEP, rows - start), WIDTH, generator=generator).bfloat16()
        raw[start : start + STEP] = values.view(torch.uint16).numpy()
    raw.flush()


def batch(start: int, values: torch.Tensor) -> RowBatch:
    """Rows as one forward pass gives them, in examples of `LENGTH` tokens."""
    rows = np.arange(start, start + len(values))
    ids = rows // LENGTH
    position = (rows % LENGTH).astype(np.int32)
    tokens = TableBlock(len(values), {"example": ids, "position": position})
    own = np.unique(ids)
    examples = TableBlock(len(own), {"example": own, "length": np.full(len(own), LENGTH)})
    return RowBatch({"tokens": tokens, "examples": examples}, {SITE: SiteBlock("tokens", values)})


class Ours:
    """A lazycache dataset."""

    name = "lazycache"
    note = ""

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        self.paths = [folder / "acts"]
        writer = writer_of(self.paths[0], shard_bytes=256 << 20)
        for start in range(0, len(raw), STEP):
            values = torch.from_numpy(np.array(raw[start : start + STEP])).view(torch.bfloat16)
            writer.write(batch(start, values))
        writer.close()

    def open(self) -> None:
        """Open it."""
        self.cache = lc.open(str(self.paths[0]))
        self.x = self.cache[SITE]
        self.flat = self.x.rows

    def close(self) -> None:
        """Close it."""
        self.cache.close()
        del self.x, self.flat

    def slice(self, start: int, stop: int) -> torch.Tensor:
        """Return consecutive rows."""
        return self.flat[start:stop].load()

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows by number, in the order given."""
        return self.flat[rows].load()

    def whole(self) -> torch.Tensor:
        """Return all rows."""
        return self.flat.load()

    def mean(self) -> torch.Tensor:
        """The float64 mean of every unit, from what is stored of it."""
        return self.x.mean("rows")

    def streamed_mean(self) -> torch.Tensor:
        """The same of an expression, of which nothing is stored."""
        return (self.x * 1).mean("rows")


def drop(paths: Iterable[Path]) -> None:
    """Take files, and the files of folders, out of the page cache: none may be mapped."""
    gc.collect()
    for path in paths:
        for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
