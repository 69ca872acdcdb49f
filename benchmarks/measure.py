"""What the benchmarks share: timing, peak memory, the machine's name, a table."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def repeated(action: Callable[[], object], *, times: int) -> tuple[float, float, float]:
    """Minimum, median and maximum wall time of several calls after one that is not counted."""
    action()
    took = sorted(seconds(action) for _ in range(times))
    return took[0], statistics.median(took), took[-1]


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes."""
    # not getrusage: there a process that was started by a larger one begins with the other's peak
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert found is not None, "Linux says how large a process was"
    return int(found[1]) * 1024


def machine() -> str:
    """One line that names the machine and the versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return (
        f"{model}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
