"""The promise about memory: the queue and one batch, whatever is written."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from writer.memory_script import BATCH_BYTES

from lazycache.codec.dtypes import as_bytes
from lazycache.types import SiteSpec
from lazycache.writer.statistics import ShardStatistics

QUEUE = 64 << 20
SLACK = 32 << 20  # freed memory on its way back to the system, and pyarrow's own


@pytest.mark.slow
def test_peak_memory_is_the_queue_and_one_batch(tmp_path):
    """1.5 GB through a queue of 64 MB into a slow store: RSS grows by the queue and one batch."""
    script = Path(__file__).with_name("memory_script.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, str(QUEUE), "60"],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
    )
    written, grown, blocked = done.stdout.split()
    assert int(written) > 1.5e9
    assert float(blocked) > 0.5  # or the queue was never full and this shows nothing
    assert int(grown) < QUEUE + BATCH_BYTES + SLACK, f"{int(grown) >> 20} MiB"


def test_the_statistics_of_a_chunk_need_few_megabytes_for_a_moment():
    """Where every value may be one of the greatest, 1.4 MB of values need less than 5 MiB."""
    rows, width = 910, 768
    spec = SiteSpec("resid_out_0", "tokens", "bfloat16", (width,), 2 * width)

    def create(path):
        raise AssertionError(path)  # nothing is written before the end

    statistics = ShardStatistics(spec, "stats", create=create, shard_bytes=256 << 20)
    chunks = [torch.full((rows, width), float(n), dtype=torch.bfloat16) for n in range(3)]
    statistics.add([(as_bytes(chunks[0]), rows)])  # memory that is used again
    tracemalloc.start()
    try:
        for values in chunks[1:]:
            statistics.add([(as_bytes(values), rows)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20, f"{peak / 2**20:.1f} MiB"
