"""What capture costs, taken apart: the same capture of a model that computes nothing.

Beside it without statistics, without the bytes of the values being written, and without both; and
what the machine needs for the copy, the CRC and the write of as many bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import lazycache as lc
from benchmarks.capture_model import LAYERS, WIDTH, device
from benchmarks.comparing import Bench, Comparison, Way, compare
from benchmarks.limits import raw_append
from lazycache.codec.checksum import crc32
from lazycache.codec.dtypes import as_bytes
from lazycache.storage.local_store import LocalUpload

_LARGE = 64 << 10
"""Bytes of a write above which it is of values, not of a record of the log."""


class Nothing(nn.Module):
    """Computes nothing, and hands over as many tensors as the model has layers."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.sites = nn.ModuleList(nn.Identity() for _ in range(LAYERS))
        self.values = values

    def forward(self, input_ids: torch.Tensor) -> None:
        """Pass each site."""
        del input_ids
        for site in self.sites:
            site(self.values)


@contextmanager
def values_dropped() -> Iterator[None]:
    """Let what is large be written nowhere: the datasets cannot be read."""
    real = LocalUpload.write

    def write(upload: LocalUpload, buffers: Sequence[memoryview]) -> None:
        if sum(buffer.nbytes for buffer in buffers) < _LARGE:
            real(upload, buffers)

    with mock.patch.object(LocalUpload, "write", write):
        yield


def parts(bench: Bench, *, batches: int, examples: int, length: int) -> Comparison:
    """Capture of nothing, whole and without one part after the other."""
    torch.manual_seed(0)
    values = torch.randn(examples, length, WIDTH)
    ids = torch.zeros(examples, length, dtype=torch.int64)
    folder = bench.folder / "parts"

    def gone() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    model = Nothing(values.to(device()))

    def captured(**options: Any) -> Callable[[], None]:
        def run() -> None:
            with lc.capture(model, str(folder), "sites.*", **options):
                for _ in range(batches):
                    model(ids)

        return run

    def unwritten(**options: Any) -> Callable[[], None]:
        def run() -> None:
            with values_dropped():
                captured(**options)()

        return run

    times = batches * LAYERS
    ways = [
        Way("lazycache", "ours", captured(), before=gone),
        Way("without statistics", "ours", captured(statistics=False), before=gone),
        Way("without writing", "ours", unwritten(), before=gone),
        Way("without both", "ours", unwritten(statistics=False), before=gone),
        *_limits(bench.folder / "raw", values, times=times),
    ]
    found = compare(
        "capture of a model that computes nothing",
        ways,
        bench=bench,
        nbytes=times * values.nbytes,
    )
    gone()
    (bench.folder / "raw").unlink(missing_ok=True)
    return found


def _limits(path: Path, values: torch.Tensor, *, times: int) -> list[Way]:
    block = as_bytes(values)
    goal = torch.empty_like(values)

    def copies() -> None:
        for _ in range(times):
            goal.copy_(values)

    def checksums() -> None:
        for _ in range(times):
            crc32(block)

    blocks = [block] * times
    link = [Way("the link alone", "limit", lambda: _sent(values, times))]
    return [
        Way("the copies alone", "limit", copies),
        *(link if torch.cuda.is_available() else []),
        Way("the CRC alone", "limit", checksums),
        raw_append(path, blocks),
        raw_append(path, blocks, sync=True),
    ]


def _sent(values: torch.Tensor, times: int) -> None:
    """Copy from the device to pinned memory, so often."""
    source, goal = values.cuda(), torch.empty(values.shape, pin_memory=True)
    for _ in range(times):
        goal.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
