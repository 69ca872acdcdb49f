"""Write much through a small queue and print, in bytes, by how much the memory grew.

Run as a script: `memory_script.py FOLDER QUEUE_BYTES BATCHES`.
"""

import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from writer_helpers import StoreAround, UploadAround, new_store, new_writer

from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.fused import COMPILER

SITES, ROWS, WIDTH = 12, 1365, 768
BATCH_BYTES = SITES * ROWS * WIDTH * 2


class SlowStore(StoreAround):
    """Slower than the batches come, so that the queue is full all the time."""

    def create(self, path):
        return UploadAround(self.inner.create(path), self.wait)

    @staticmethod
    def wait(buffers) -> None:
        time.sleep(sum(buffer.nbytes for buffer in buffers) / 1e9)


def batch(number: int) -> RowBatch:
    example = np.full(ROWS, number)
    position = np.arange(ROWS, dtype=np.int32)
    table = TableBlock(ROWS, {"example": example, "position": position})
    values = {
        f"site_{site}": SiteBlock(
            "tokens", torch.full((ROWS, WIDTH), float(number % 128), dtype=torch.bfloat16)
        )
        for site in range(SITES)
    }
    return RowBatch({"tokens": table}, values)


def write(folder: Path, *, queue_bytes: int, batches: int) -> tuple[int, float]:
    store = SlowStore(new_store(folder))
    writer = new_writer(
        store,
        run=RunInfo("main", {}),
        queue_bytes=queue_bytes,
        shard_bytes=256 << 20,
        chunk_rows=8192,
        commit_bytes=512 << 20,
    )
    for number in range(batches):
        writer.write(batch(number))
    writer.close()
    return writer.progress.bytes, writer.progress.seconds_blocked


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def main(folder: Path, queue_bytes: int, batches: int) -> None:
    torch.set_num_threads(1)
    COMPILER.prepared("bfloat16")  # where there is one, it takes its memory once as well
    write(folder / "first", queue_bytes=1 << 20, batches=2)  # libraries take their memory once
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = peak_bytes()
    written, blocked = write(folder / "second", queue_bytes=queue_bytes, batches=batches)
    sys.stdout.write(f"{written} {peak_bytes() - before} {blocked}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
