"""What capture costs: `python -m benchmarks.bench_capture [--smoke] [--folder F] [--json FILE]`.

GPT-2 of width 256 with random weights, the residual stream behind its four layers, float32. In
turn: the forward passes alone, with lazycache from entering the block to the end of the last
commit, with plain hooks and a file of each batch in each of the common formats, and with the
libraries that capture. Only lazycache has its files synced to the disk. Every peer was first run on
one batch, and what it kept compared with what plain hooks see; who keeps something else is skipped.
Where torch sees a GPU the model is on it, but for the libraries, which are measured on the CPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.capture_caches import CACHES
from benchmarks.capture_formats import FORMATS
from benchmarks.capture_model import SITES, Setting, device, hooked, make
from benchmarks.capture_parts import parts
from benchmarks.capture_peer import way_of
from benchmarks.capture_runners import RUNNERS
from benchmarks.child import in_child
from benchmarks.comparing import Bench, Comparison, Way, compare
from benchmarks.compiled import compiles, plainly

SMALL_QUEUE = 128 << 20
"""Bytes that may wait where the peak memory is measured."""

_PEER_ROUNDS, _SLOW_ROUNDS = 3, 2
"""Rounds of formats, and of libraries, of which some take minutes."""

GOAL = "forward only <= 1.05; best peer >= 1"


def run(bench: Bench) -> Iterator[Comparison]:
    """Capture beside the forward pass alone, formats and libraries; then taken apart."""
    examples, length = bench.size(32, 2), bench.size(128, 16)
    batches = bench.size(8, 2)  # what is left to write after the last pass is a small part then
    setting = make(batches=batches, examples=examples, length=length, device=device())
    yield beside_formats(bench, setting)
    yield beside_libraries(bench, make(batches=2, examples=examples, length=length))
    yield parts(bench, batches=batches, examples=examples, length=length)


def beside_formats(bench: Bench, setting: Setting) -> Comparison:
    """Capture beside what one writes by hand."""
    first = lazycache(setting, bench.folder)
    if not bench.smoke:
        compiles("float32")
        first.peak_rss = in_child("benchmarks.bench_capture:short_run", str(bench.folder)).peak_rss
    ways = [
        first,
        plainly(first),
        lazycache(setting, bench.folder, name="lazycache, statistics=False", statistics=False),
        Way("forward only", "limit", setting.forward),
        Way("hooks that copy, nothing kept", "limit", lambda: copied(setting)),
        *(way_of(peer, setting, bench.folder / "peer") for peer in FORMATS),
    ]
    for way in ways:
        way.rounds = None if way.name in ("lazycache", "forward only") else _PEER_ROUNDS
    found = compare("capture + commit", ways, bench=bench, nbytes=setting.nbytes, goal=GOAL)
    return cleared(found, bench.folder)


def beside_libraries(bench: Bench, setting: Setting) -> Comparison:
    """Capture beside the libraries that capture."""
    ways = [
        lazycache(setting, bench.folder),
        Way("forward only", "limit", setting.forward),
        *(way_of(library(), setting, bench.folder / "peer") for library in [*CACHES, *RUNNERS]),
    ]
    for way in ways:
        way.rounds = _SLOW_ROUNDS
    name = "capture + commit, a short run beside libraries"
    return cleared(compare(name, ways, bench=bench, nbytes=setting.nbytes), bench.folder)


def lazycache(setting: Setting, folder: Path, *, name: str = "lazycache", **options: Any) -> Way:
    """Four sites to a dataset, committed."""
    url = folder / "ours"

    def capture() -> None:
        with lc.capture(setting.model, str(url), SITES, **options):
            setting.forward()

    return Way(name, "ours", capture, before=gone(url))


def copied(setting: Setting) -> None:
    """Hooks that copy, and nobody who takes what they copy."""
    with hooked(setting.model):
        setting.forward()


def gone(folder: Path) -> Callable[[], None]:
    """Return what removes a folder."""
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def cleared(found: Comparison, folder: Path) -> Comparison:
    """Remove what the ways have left."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def short_run(folder: str) -> None:
    """Capture twice a small queue's bytes: what a process of its own needs at most."""
    setting = make(batches=8, examples=64, length=128, device=device())
    with lc.capture(setting.model, f"{folder}/ours", SITES, queue_bytes=SMALL_QUEUE):
        setting.forward()


if __name__ == "__main__":
    alone(run)
