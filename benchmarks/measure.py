"""What the benchmarks share: timing, peak memory, the machine's name, a table."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

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


def surroundings(command: str) -> dict[str, Any]:
    """What belongs to every figure: machine, date, load, versions, commit and command."""
    return moment() | {
        "command": command.strip(),
        "machine": f"{machine()}, {memory() / 2**30:.0f} GiB of memory",
        "versions": versions(),
    }


def moment() -> dict[str, Any]:
    """What belongs to the figures of one stage: they may be of another hour than the others."""
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": list(os.getloadavg()),
        "commit": commit(),
    }


def memory() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def commit() -> str:
    """Return the commit that is checked out, and whether files differ from it."""
    folder = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # no git, or an unpacked archive
    return found.stdout.strip()


PACKAGES = (
    *("torch", "numpy", "pyarrow", "duckdb", "transformers", "datasets", "safetensors"),
    *("pylance", "zarr", "tensordict", "pandas", "transformer-lens", "nnsight", "tdhook"),
    *("easyroutine", "sae-lens", "torchlens", "lmprobe", "webdataset", "litdata"),
    "mosaicml-streaming",
)
"""Whose versions are told."""


def versions() -> dict[str, str]:
    """Return the versions of what takes part and is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # a peer that is absent is named where it is skipped
    return found


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
