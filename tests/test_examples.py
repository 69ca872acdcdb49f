"""The scripts in `examples/` run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

OTHERWISE = ("s3_server", "share_over_s3", "torchrun_capture")
"""What is not run with a folder as its argument."""

SCRIPTS = sorted(path for path in EXAMPLES.glob("*.py") if path.stem not in OTHERWISE)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_leaves_a_dataset(script, tmp_path):
    """Each example ends without an error or a warning and leaves a dataset in the folder given."""
    done = subprocess.run(
        [sys.executable, script, tmp_path / "acts"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (tmp_path / "acts" / "lazycache.json").exists()
    assert "LazyTensor(" in done.stdout


@pytest.mark.slow
def test_a_dataset_is_shared_over_s3(s3):
    """One process captures into a bucket of a real server, another reads one slice: one request."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "share_over_s3.py", s3.url()],
        env=os.environ | s3.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (asked,) = re.findall(r"that took 1 requests for ([0-9,]+) bytes", done.stdout)
    needed, block = 10 * 9 * 384 * 4, 4096  # the cache of what was read keeps whole blocks
    assert needed <= int(asked.replace(",", "")) < needed + 2 * block


def test_every_benchmark_can_be_loaded():
    """No benchmark names what the package no longer has; peers are asked for when they run."""
    root = Path(__file__).parent.parent
    names = [f"benchmarks.{path.stem}" for path in sorted((root / "benchmarks").glob("*.py"))]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert len(names) > 6
    assert (done.returncode, done.stderr) == (0, "")
