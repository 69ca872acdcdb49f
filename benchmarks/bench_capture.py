"""What capture costs: `python -m benchmarks.bench_capture [--device cpu|cuda] [FOLDER]`.

GPT-2 of width 256 with random weights, the residual stream behind four layers, batches of 64 x 128
tokens in float32. In turn, round after round: the forward passes alone, with lazycache (from
entering the block to the end of the last commit), with plain hooks and a safetensors file per
batch, and with plain hooks and `torch.save`. Only lazycache has its files synced to the disk. Peak
memory is that of fresh processes, with a queue of 128 MiB, for runs of two lengths that are both
longer. What the machine itself can do is measured beside
it: a copy of the same bytes in memory, a plain write of them, the same with `fsync`; with
`--device cuda` also the copy to pinned memory of the host, and then the last line says which of
them limits the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lazycache as lc
from benchmarks.measure import machine, peak_rss, print_table

WIDTH, BATCH, LENGTH, SITES = 256, 64, 128, 4

CAPTURE_ALONE = "lazycache, of a model that computes nothing"
MEMORY, STORE, LINK = "memory: copy on the host", "store: write + fsync", "link: to pinned memory"
LIMITS = (MEMORY, STORE, LINK)

SMALL_QUEUE = 128 << 20
"""Bytes that may wait where the peak memory is measured."""


@dataclass(frozen=True)
class Bench:
    """One model and what it is given."""

    model: Any
    ids: torch.Tensor
    layers: list[int]
    """Those whose output is captured."""
    folder: Path
    batches: int
    settings: dict[str, Any]
    """Arguments of capture."""

    @property
    def nbytes(self) -> int:
        """Bytes of the sites of one run."""
        return self.batches * len(self.layers) * BATCH * LENGTH * WIDTH * 4

    def run(self, after: Callable[[int], None] = lambda _: None) -> None:
        """Run the model on every batch."""
        with torch.no_grad():
            for number in range(self.batches):
                self.model(input_ids=self.ids, use_cache=False)
                after(number)
        if self.ids.is_cuda:
            torch.cuda.synchronize()


def make(options: argparse.Namespace, folder: Path, *, batches: int) -> Bench:
    """Make the model."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(n_embd=WIDTH, n_layer=options.layers, n_head=4)
    model = GPT2Model(config).eval().to(options.device)
    ids = torch.randint(0, config.vocab_size, (BATCH, LENGTH)).to(options.device)
    step = options.layers // SITES
    layers = list(range(step - 1, options.layers, step))
    settings = {"queue_bytes": SMALL_QUEUE} if options.only else {}
    return Bench(model, ids, layers, folder, batches, settings)


def forward_only(bench: Bench) -> None:
    """Nothing is captured."""
    bench.run()


def with_lazycache(bench: Bench) -> None:
    """Four sites to a dataset, committed."""
    sites = [f"resid_out_{layer}" for layer in bench.layers]
    with lc.capture(bench.model, str(bench.folder / "acts"), sites, **bench.settings):
        bench.run()


def without_statistics(bench: Bench) -> None:
    """The same without statistics."""
    bench.settings["statistics"] = False
    try:
        with_lazycache(bench)
    finally:
        del bench.settings["statistics"]


@contextmanager
def plain_hooks(bench: Bench) -> Iterator[dict[str, torch.Tensor]]:
    """What one writes by hand: each hook copies its tensor to the host."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            seen[name] = value.detach().to("cpu", copy=True)

        return hook

    blocks = bench.model.h
    handles = [blocks[n].register_forward_hook(keep(f"resid_out_{n}")) for n in bench.layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def with_safetensors(bench: Bench) -> None:
    """A file per batch, not synced."""
    from safetensors.torch import save_file

    with plain_hooks(bench) as seen:
        bench.run(lambda n: save_file(seen, str(bench.folder / f"{n}.safetensors")))


def with_torch_save(bench: Bench) -> None:
    """A file per batch, not synced."""
    with plain_hooks(bench) as seen:
        bench.run(lambda n: torch.save(seen, bench.folder / f"{n}.pt"))


WAYS: dict[str, Callable[[Bench], None]] = {
    "forward only": forward_only,
    "lazycache": with_lazycache,
    "lazycache, statistics=False": without_statistics,
    "hooks + safetensors": with_safetensors,
    "hooks + torch.save": with_torch_save,
}


class Nothing(nn.Module):
    """Computes nothing, and hands over as many tensors of the same shape."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.sites = nn.ModuleList(nn.Identity() for _ in range(SITES))
        self.values = torch.ones(BATCH, LENGTH, WIDTH, device=device)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> None:
        """Pass each site."""
        del input_ids, use_cache
        for site in self.sites:
            site(self.values)


def capture_alone(bench: Bench) -> None:
    """The same capture of a model that computes nothing: what it costs by itself."""
    model = Nothing(str(bench.ids.device))
    with lc.capture(model, str(bench.folder / "acts"), "sites.*"):
        replace(bench, model=model).run()


def memcpy(bench: Bench) -> None:
    """The same bytes from tensor to tensor on the host, one thread, memory that is in use."""
    source = torch.ones(BATCH * LENGTH * WIDTH)
    target = torch.empty_like(source)
    for _ in range(bench.nbytes // source.nbytes):
        target.copy_(source)


def write(bench: Bench, *, sync: bool = False) -> None:
    """The same bytes to as many files, site by site and batch by batch."""
    source = memoryview(torch.ones(BATCH * LENGTH * WIDTH).numpy()).cast("B")
    files = [os.open(bench.folder / f"raw{n}", os.O_CREAT | os.O_WRONLY) for n in bench.layers]
    try:
        for _ in range(bench.batches):
            for file in files:
                left = source
                while left:
                    left = left[os.write(file, left) :]
        for file in files:
            if sync:
                os.fsync(file)
    finally:
        for file in files:
            os.close(file)


def to_pinned(bench: Bench) -> None:
    """The same bytes from the device to pinned memory."""
    source = torch.ones(BATCH * LENGTH * WIDTH, device="cuda")
    target = torch.empty(source.shape, pin_memory=True)
    for _ in range(bench.nbytes // source.nbytes):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()


@dataclass(frozen=True)
class Took:
    """One run."""

    wall: float
    cpu: float
    """Processor time of all threads."""


def measure(action: Callable[[Bench], None], bench: Bench) -> Took:
    """Run once into an empty folder. Emptying it is not counted."""
    for path in bench.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.sync()  # what an earlier run has left to write is not this one's
    wall, cpu = time.perf_counter(), time.process_time()
    action(bench)
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(
    actions: dict[str, Callable[[Bench], None]], bench: Bench, rounds: int
) -> dict[str, list[Took]]:
    """Measure all in turn; each round begins with another one."""
    taken: dict[str, list[Took]] = {name: [] for name in actions}
    for action in actions.values():
        measure(action, bench)
    names = list(actions)
    for n in range(rounds):
        shift = n % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name].append(measure(actions[name], bench))
    return taken


def median(runs: list[Took], what: str) -> float:
    """Median of the wall or processor time."""
    return statistics.median(getattr(run, what) for run in runs)


def ratio(runs: list[Took], base: list[Took], what: str) -> str:
    """Median, smallest and largest of the ratios within each round."""
    each = [getattr(a, what) / getattr(b, what) for a, b in zip(runs, base, strict=True)]
    return f"{statistics.median(each):.3f} ({min(each):.2f}-{max(each):.2f})"


def resident(options: argparse.Namespace, way: str, batches: int) -> float:
    """Peak memory of a fresh process that runs one way, in MB."""
    command = [sys.executable, "-m", "benchmarks.bench_capture", "--only", way]
    command += ["--device", options.device, "--layers", str(options.layers)]
    command += ["--batches", str(batches)] + ([options.folder] if options.folder else [])
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1e6


def limits(options: argparse.Namespace, bench: Bench, forward: list[Took], ours: list[Took]) -> str:
    """Measure what the machine can do; say which part of the run can be no faster."""
    actions: dict[str, Callable[[Bench], None]] = {
        CAPTURE_ALONE: capture_alone,
        MEMORY: memcpy,
        "store: write": write,
        STORE: lambda bench: write(bench, sync=True),
    }
    if options.device == "cuda":
        actions[LINK] = to_pinned
    taken = interleaved(actions, bench, 3)
    rows = [
        (
            name,
            f"{bench.nbytes / median(runs, 'wall') / 1e6:,.0f}",
            f"{median(runs, 'wall') / median(forward, 'wall'):.3f}",
            f"{median(runs, 'cpu') / median(forward, 'cpu'):.3f}",
        )
        for name, runs in taken.items()
    ]
    heads = ["same bytes, by themselves", "MB/s", "wall, of forward", "processor time, of forward"]
    print_table(heads, rows)
    times = {name: median(taken[name], "wall") for name in taken if name in LIMITS}
    times["model: forward only"] = median(forward, "wall")
    slowest = max(times, key=times.__getitem__)
    reached = times[slowest] / median(ours, "wall")
    return f"limit of this run: {slowest}; lazycache reaches {reached:.2f} of it"


def report(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    bench = make(options, folder, batches=options.batches)
    taken = interleaved(WAYS, bench, options.rounds)
    base = taken["forward only"]
    rows = []
    for name, runs in taken.items():
        rate = "" if name == "forward only" else f"{bench.nbytes / median(runs, 'wall') / 1e6:,.0f}"
        rows.append((name, ratio(runs, base, "wall"), ratio(runs, base, "cpu"), rate))
    where = f", {torch.cuda.get_device_name()}" if options.device == "cuda" else ""
    print(machine() + where)
    print(
        f"{options.layers} layers, {SITES} sites, {options.batches} batches of {BATCH} x {LENGTH}, "
        f"{options.rounds} rounds: forward {median(base, 'wall') / options.batches * 1e3:.1f} ms, "
        f"{bench.nbytes / options.batches / 1e6:.1f} MB per batch"
    )
    print_table(["way", "wall, of forward", "processor time, of forward", "MB/s"], rows)
    print(limits(options, bench, base, taken["lazycache"]))
    if options.memory:
        print_memory(options)


def print_memory(options: argparse.Namespace) -> None:
    """Print the peak memory of runs of two lengths."""
    lengths = (2 * options.batches, 8 * options.batches)
    rows = [
        (way, *(f"{resident(options, way, n):,.0f}" for n in lengths))
        for way in ("forward only", "lazycache")
    ]
    print_table(["peak RSS, MB", *(f"{n} batches" for n in lengths)], rows)


def main() -> None:
    """Print the tables, or the peak memory of one way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=None, help="where to write")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--layers", type=int, default=4, help="a multiple of four")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--only", choices=list(WAYS), help="run one way, print its peak memory")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here: nothing to measure with --device cuda.")
    if options.folder is not None:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        if options.only:
            WAYS[options.only](make(options, folder, batches=options.batches))
            print(peak_rss())
        else:
            report(options, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
