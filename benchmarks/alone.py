"""A stage by itself: as a command, and as what a process does for `python -m benchmarks`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.comparing import Bench, Stage
from benchmarks.measure import machine, peak_rss
from benchmarks.report import stage_table


def alone(run: Stage) -> None:
    """Run a stage from the command line: print its table, write its JSON.

    Everything is written into a folder that is removed again, in `--folder` if that is given; what
    lazycache keeps of far stores and of tables too, so that no run finds what another one left.
    """
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--long", action="store_true", help="also what takes many minutes")
    parser.add_argument("--folder", type=Path, help="the disk that is measured")
    parser.add_argument("--json", type=Path, help="write what was measured there")
    asked = parser.parse_args()
    stage = measure(run.__module__, asked.folder, smoke=asked.smoke, long=asked.long)
    if asked.json is not None:
        asked.json.write_text(json.dumps(stage), encoding="utf-8")
    print(machine())
    print(stage_table(stage))


def measure(module: str, disk: Path | None, *, smoke: bool, long: bool) -> dict[str, Any]:
    """Run the stage of a module in this process; return its JSON."""
    run: Stage = importlib.import_module(module).run
    if disk is not None:
        disk.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=disk) as place:
        os.environ["LAZYCACHE_CACHE_DIR"] = str(Path(place) / "kept")
        (Path(place) / "files").mkdir()
        bench = Bench(Path(place) / "files", smoke=smoke, long=long)
        start = time.perf_counter()
        found = [asdict(comparison) for comparison in run(bench)]
        spent = time.perf_counter() - start
    cpu = sum(os.times()[:4])  # of this process and of the children that it waited for
    return {"seconds": spent, "cpu": cpu, "peak_rss": peak_rss(), "comparisons": found}
