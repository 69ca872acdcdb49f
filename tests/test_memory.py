"""Peak memory of a capture and of an aggregate does not grow with the data."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

BATCH_MB = 16
SCRIPT = """
    import resource, sys, torch, lazycache as lc
    from lazycache.writer.fused import COMPILER
    from torch import nn

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    torch.set_num_threads(1)
    COMPILER.prepared("float32")  # the compiler's memory, once, where there is one
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


LIMIT = 1 << 30
BLOCKS, BLOCK_ROWS, WIDTH = 96, 16_384, 1024  # 96 blocks of 64 MB of float32: 6 GB

WRITE = f"""
    import sys, torch, lazycache as lc
    from torch import nn

    base = torch.arange({WIDTH}.0) % 7
    period = base + (torch.arange({BLOCK_ROWS} + 97) % 97)[:, None]  # the rows repeat
    model = nn.Identity()
    with lc.capture(model, sys.argv[1], ":out", commit_bytes=2 << 30, statistics=False) as run:
        for block in range({BLOCKS}):
            first = block * {BLOCK_ROWS}
            ids = list(range(first, first + {BLOCK_ROWS}))
            run.annotate(example=ids, block=[block] * {BLOCK_ROWS})
            model(period[first % 97 : first % 97 + {BLOCK_ROWS}])
"""

ANALYSE = f"""
    import json, resource, sys, torch, lazycache as lc

    resource.setrlimit(resource.RLIMIT_RSS, ({LIMIT}, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    x = lc.open(sys.argv[1])[":out"]
    rows = x.rows
    every = rows[torch.arange({BLOCKS * BLOCK_ROWS} - 1, -1, -{BLOCK_ROWS // 16})]
    groups = x.group_by("block").mean()
    print(json.dumps({{
        "shape": list(x.shape),
        "mean": x.mean("rows").tolist(),
        "streamed": (x + 0).sum("rows").tolist(),
        "std": (x * 1).std(0).tolist(),
        "norm": (x - 1).norm(dim=-1).mean().item(),
        "max": x.max().item(),
        "gathered": every.load().double().mean(0).tolist(),
        "group": groups.values[5].tolist(),
        "where": x.where("block = 7").mean("rows").tolist(),
        "chunks": sum(part.double().sum().item() for part in x.chunks(bytes=8 << 20)),
    }}))
"""


def _limited(script, url, limit, answer):
    """Run a script and kill it as soon as its resident memory is above the limit."""
    command = [sys.executable, "-c", textwrap.dedent(script), url]
    with answer.open("w") as file, subprocess.Popen(command, stdout=file) as child:
        while child.poll() is None:
            status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
            peak = re.search(r"VmHWM:\s*(\d+) kB", status)
            if peak is not None and int(peak[1]) * 1024 > limit:
                os.kill(child.pid, signal.SIGKILL)
                pytest.fail(f"{int(peak[1]) >> 10} MB of memory; the limit is {limit >> 20}")
            time.sleep(0.01)
    assert child.returncode == 0
    return json.loads(answer.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_six_gigabytes_are_analysed_in_one(tmp_path):
    """Means, norms of differences, groups, gathers over 6 GB in 1 GB give the numbers of RAM."""
    url = str(tmp_path / "acts")
    subprocess.run([sys.executable, "-c", textwrap.dedent(WRITE), url], check=True)
    assert sum(p.stat().st_size for p in (tmp_path / "acts").rglob("*.parquet")) > 6 << 30
    found = _limited(ANALYSE, url, LIMIT, tmp_path / "answer.json")

    base = (torch.arange(WIDTH) % 7).double()
    ids = torch.arange(BLOCKS * BLOCK_ROWS)
    add = (ids % 97).double()
    assert found["shape"] == [BLOCKS * BLOCK_ROWS, WIDTH]
    mean = base + add.mean()
    torch.testing.assert_close(
        torch.tensor(found["mean"], dtype=torch.float64), mean, rtol=1e-12, atol=0
    )
    total = base * len(ids) + add.sum()
    assert found["streamed"] == total.tolist(), "sums of integers are exact"
    std = add.std().expand(WIDTH)
    torch.testing.assert_close(
        torch.tensor(found["std"], dtype=torch.float64), std, rtol=1e-9, atol=0
    )
    norms = torch.stack([(base + k - 1).norm() for k in range(97)])
    norm = norms[ids % 97].mean().item()
    assert found["norm"] == pytest.approx(norm, rel=1e-12)
    assert found["max"] == 6 + 96
    chosen = add[torch.arange(len(ids) - 1, -1, -(BLOCK_ROWS // 16))]
    assert found["gathered"] == pytest.approx((base + chosen.mean()).tolist(), rel=1e-12)
    for block, name in ((5, "group"), (7, "where")):
        part = add[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS].mean()
        assert found[name] == pytest.approx((base + part).tolist(), rel=1e-12)
    assert found["chunks"] == total.sum().item()
