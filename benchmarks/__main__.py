"""All benchmarks: `python -m benchmarks [--smoke] [--only A,B] [--json FILE] [--update DOC]`.

`--from FILE` shows an earlier run again; with `--only` those stages are measured anew, the others
are taken from it.

Every stage runs in a process of its own, one after the other, so that its peak memory is its own
and nothing another one left is in the way; it is a fork, so that torch is imported once. Installs
nothing: peers that are absent are named in the tables
(`pip install -c .ci/constraints.txt ".[bench]"` brings them). A quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from benchmarks.alone import measure
from benchmarks.bytecode import shared_bytecode
from benchmarks.forking import forked
from benchmarks.measure import moment, surroundings
from benchmarks.report import check_marks, goals_table, header, stage_table, update

STAGES = (
    "limits",
    "capture",
    "smollm2",
    "write",
    "read",
    "query",
    "loader",
    "remote",
    "tiles",
    "open",
    "scale",
)
"""Modules `bench_NAME`, in the order in which they run."""

MODULES = ("lazycache.samples", "duckdb")
"""What stages begin with, imported once for all."""


def main() -> None:
    """Run what was asked for, print its tables, and end with 1 if a stage failed."""
    asked = arguments()
    if asked.update is not None:
        check_marks(asked.update, asked.only or STAGES)
    report = merged(asked) if asked.results is not None else measured(asked)
    if asked.json is not None:
        asked.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(header(report))
    for name, stage in report["stages"].items():
        print(f"\n## {name}\n\n{stage_table(stage, goals=False)}")
    print(f"\n## goals\n\n{goals_table(report['stages'])}")
    if asked.update is not None:
        update(asked.update, report)
    sys.exit(any(stage.get("failed") for stage in report["stages"].values()))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round, two at once")
    parser.add_argument("--long", action="store_true", help="also what takes many minutes")
    parser.add_argument("--only", type=named, metavar="A,B", help=", ".join(STAGES))
    parser.add_argument("--folder", type=Path, help="the disk that is measured")
    parser.add_argument("--json", type=Path, help="write all that was measured there")
    parser.add_argument("--update", type=Path, help="write the tables into this document")
    parser.add_argument(
        "--from",
        type=Path,
        dest="results",
        metavar="JSON",
        help="show this; with --only, measure those again and take the others from it",
    )
    return parser.parse_args()


def named(text: str) -> tuple[str, ...]:
    """Return the stages that a list names, in their order."""
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(STAGES)):
        raise argparse.ArgumentTypeError(f"no stage {', '.join(unknown)}; {', '.join(STAGES)}")
    return tuple(name for name in STAGES if name in chosen)


def merged(asked: argparse.Namespace) -> dict[str, Any]:
    """Return what a run wrote by `--json`, with the stages that are named measured anew."""
    earlier: dict[str, Any] = json.loads(asked.results.read_text(encoding="utf-8"))
    if asked.only is None:
        return earlier
    found = measured(asked)
    stages = earlier["stages"] | found["stages"]
    return found | {"stages": {name: stages[name] for name in STAGES if name in stages}}


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """Run the stages; return what the JSON holds."""
    # names of files without their folders, which mean something on this machine alone
    words = (Path(word).name if "/" in word else word for word in sys.argv[1:])
    found: dict[str, Any] = surroundings(" ".join(("python -m benchmarks", *words)))
    with shared_bytecode():
        for module in MODULES:
            importlib.import_module(module)
        return found | {"stages": stages(asked.only or STAGES, asked)}


def stages(chosen: Sequence[str], asked: argparse.Namespace) -> dict[str, Any]:
    """Run each stage in a fork of its own; return what they measured, or how they failed."""
    waiting, running = list(chosen), dict[int, tuple[str, float, IO[str]]]()
    found: dict[str, Any] = {name: {} for name in chosen}
    # nothing is timed where it only has to run
    at_once = 2 if asked.smoke else 1
    while waiting or running:
        while waiting and len(running) < at_once:
            name = waiting.pop(0)
            # open until it is read
            file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
            found[name], start = moment(), time.perf_counter()
            running[forked(partial(stage, name, asked, file))] = name, start, file
        child, status = os.wait()
        name, start, written = running.pop(child)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        if code := os.waitstatus_to_exitcode(status):  # the others go on, and it is told
            found[name] = {"failed": f"it ended with {code}, see standard error"}
        else:
            written.seek(0)
            found[name] |= json.load(written)
        written.close()
    return found


def stage(name: str, asked: argparse.Namespace, file: IO[str]) -> None:
    """Run one stage in this process; write what it measured."""
    done = measure(f"benchmarks.bench_{name}", asked.folder, smoke=asked.smoke, long=asked.long)
    json.dump(done, file)
    file.flush()


if __name__ == "__main__":
    main()
