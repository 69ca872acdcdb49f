"""The promise about memory: the queue and one batch, whatever is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from writer.memory_script import BATCH_BYTES

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
