"""What the machine gives: `python -m benchmarks.bench_limits [--smoke] [--folder F]`.

The speeds that everything else is set beside: a copy in memory, a file written with and without
waiting for the disk, on the measured disk and on a memory disk, and read through a map and from the
cold disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Way, compare
from benchmarks.limits import memcpy, raw_append, scan, sequential

MEMORY_DISK = Path("/dev/shm")
BLOCK = 8 << 20


def run(bench: Bench) -> Iterator[Comparison]:
    """Measure the machine's own limits."""
    nbytes = bench.size(512 << 20, 16 << 20)
    values = torch.randint(1 << 62, (nbytes // 8,)).view(torch.uint8)
    blocks = [part.numpy().data for part in torch.split(values, BLOCK)]
    yield compare("copy in memory", [memcpy(values)], bench=bench, nbytes=nbytes)
    file = bench.folder / "raw"
    writes = [raw_append(file, blocks), raw_append(file, blocks, sync=True)]
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.exists() else None) as place:
        in_memory = raw_append(Path(place) / "raw", blocks)
        writes.append(replace(in_memory, name=f"{in_memory.name}, memory disk"))
        yield compare("write", writes, bench=bench, nbytes=nbytes)
    yield compare("read", reads(file), bench=bench, nbytes=nbytes)
    file.unlink()


def reads(file: Path) -> list[Way]:
    """Ways of reading a file."""
    return [scan(file), scan(file, cold=True), sequential(file)]


if __name__ == "__main__":
    alone(run)
