"""Peak memory of a capture and of an aggregate does not grow with the data."""

import subprocess
import sys
import textwrap

import pytest

BATCH_MB = 16
SCRIPT = """
    import resource, sys, torch, lazycache as lc
    from torch import nn

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    torch.set_num_threads(1)
    model = nn.Sequential(nn.Embedding(10, 1024), nn.Identity())
    ids = torch.zeros(16, 256, dtype=torch.int64)  # 16 MB of float32 a batch
    url, batches = sys.argv[1], int(sys.argv[2])
    with torch.no_grad():
        with lc.capture(model, url + "/small", "0") as run:
            model(ids)
        before = peak()
        with lc.capture(model, url + "/acts", "0", queue_bytes=32 << 20) as run:
            for _ in range(batches):
                model(ids)
    print(peak() - before)
"""


@pytest.mark.slow
def test_a_capture_of_1_gb_stays_within_queue_and_forward_pass(tmp_path):
    """1 GB through a queue of 32 MB grows memory by the queue and a few batches, no more."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path, "64"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stored = sum(path.stat().st_size for path in (tmp_path / "acts" / "data").rglob("*"))
    assert stored > 1 << 30
    # the queue, the batch that waits, the model's own output and its copy
    assert float(done.stdout) < 32 + 4 * BATCH_MB + 32
