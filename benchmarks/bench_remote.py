"""What one slice costs far away: `python -m benchmarks.bench_remote [FOLDER]`.

The same activations, 256 examples of 64 tokens, 12 layers of 256 float32, stored by lazycache and
as people store them: torch files and safetensors shards of 64 examples with all layers, a HF
dataset's Parquet with a list column per layer. From each "one layer of ten examples" is read over `far://`,
where every request waits 20 ms and is counted: ten neighbours, and ten anywhere. What a peer can
read of a part of a file it may (safetensors' header and range, Parquet's columns and row groups).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import lazycache as lc
from benchmarks.far_store import LATENCY, PARALLEL, counted
from benchmarks.measure import machine, print_table, seconds

EXAMPLES, TOKENS, LAYERS, WIDTH = 256, 64, 12, 256
PER_FILE = 64
GROUP_ROWS = 1000
"""Rows of a row group, as `datasets` writes them."""
LAYER, ROUNDS = 5, 5
NEAR = tuple(range(100, 110))
FAR = (3, 31, 64, 77, 105, 130, 166, 190, 222, 255)

Read = Callable[[Sequence[int]], torch.Tensor]


def values_of(layer: int) -> torch.Tensor:
    """The activations of a layer: [examples, tokens, width]."""
    generator = torch.Generator().manual_seed(layer)
    return torch.randn(EXAMPLES, TOKENS, WIDTH, generator=generator)


class Embedded(torch.nn.Module):
    """A model whose layers give what `values_of` says, so that everybody stores the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Embedding.from_pretrained(values_of(i).reshape(-1, WIDTH))
            for i in range(LAYERS)
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Look every token up in every layer."""
        return sum(layer(input_ids) for layer in self.layers)  # type: ignore[return-value]


def write(folder: Path) -> None:
    """Store the activations in every way."""
    from safetensors.torch import save_file

    ids = torch.arange(EXAMPLES * TOKENS).reshape(EXAMPLES, TOKENS)
    model = Embedded()
    with lc.capture(model, folder / "lazycache", "layers.*"):
        for first in range(0, EXAMPLES, PER_FILE):
            model(ids[first : first + PER_FILE])
    layers = {f"layer_{i}": values_of(i) for i in range(LAYERS)}
    for first in range(0, EXAMPLES, PER_FILE):
        # cloned: torch.save of a view writes all that the view is a part of
        part = {name: x[first : first + PER_FILE].clone() for name, x in layers.items()}
        torch.save(part, folder / f"{first}.pt")
        save_file(part, folder / f"{first}.safetensors")
    columns: dict[str, pa.Array] = {
        "example": np.repeat(np.arange(EXAMPLES), TOKENS),
        "position": np.tile(np.arange(TOKENS), EXAMPLES),
    }
    for name, x in layers.items():
        offsets = pa.array(np.arange(EXAMPLES * TOKENS + 1, dtype=np.int32) * WIDTH)
        columns[name] = pa.ListArray.from_arrays(offsets, x.reshape(-1).numpy())
    pq.write_table(pa.table(columns), folder / "hf.parquet", row_group_size=GROUP_ROWS)


def readers(folder: Path) -> dict[str, Read]:
    """Who reads, by name: each from nothing, as a new process would."""
    from safetensors.torch import load

    fs = fsspec.filesystem("far")
    name = f"layer_{LAYER}"

    def whole(suffix: str, decode: Callable[[bytes], dict[str, torch.Tensor]]) -> Read:
        def read(examples: Sequence[int]) -> torch.Tensor:
            files = {one // PER_FILE * PER_FILE for one in examples}
            parts = {f: decode(fs.cat_file(f"{folder}/{f}.{suffix}"))[name] for f in files}
            return torch.stack(
                [parts[one // PER_FILE * PER_FILE][one % PER_FILE] for one in examples]
            )

        return read

    def of_header(examples: Sequence[int]) -> torch.Tensor:
        found = {}
        for first in {one // PER_FILE * PER_FILE for one in examples}:
            path = f"{folder}/{first}.safetensors"
            (size,) = struct.unpack("<Q", fs.cat_file(path, 0, 8))
            header = json.loads(fs.cat_file(path, 8, 8 + size))
            start, stop = (8 + size + place for place in header[name]["data_offsets"])
            raw = bytearray(fs.cat_file(path, start, stop))
            found[first] = torch.frombuffer(raw, dtype=torch.float32).view(-1, TOKENS, WIDTH)
        return torch.stack([found[one // PER_FILE * PER_FILE][one % PER_FILE] for one in examples])

    def parquet(examples: Sequence[int]) -> torch.Tensor:
        table = pq.read_table(
            f"{folder}/hf.parquet",
            filesystem=fs,
            columns=[name],
            filters=[("example", "in", list(examples))],
        )
        flat = table[name].combine_chunks().flatten().to_numpy()
        return torch.from_numpy(flat.copy()).view(len(examples), TOKENS, WIDTH)

    def ours(examples: Sequence[int]) -> torch.Tensor:
        cache = lc.open(f"far://{folder}/lazycache")
        return cache[f"layers.{LAYER}:out"][list(examples)].load()

    opened = lc.open(f"far://{folder}/lazycache")

    def again(examples: Sequence[int]) -> torch.Tensor:
        return opened[f"layers.{LAYER}:out"][list(examples)].load()

    return {
        "lazycache, opened anew": ours,
        "lazycache, open already": again,
        "torch files": whole("pt", lambda data: torch.load(io.BytesIO(data))),
        "safetensors shards, whole": whole("safetensors", load),
        "safetensors, header and range": of_header,
        "HF Parquet, columns and row groups": parquet,
    }


def measure(read: Read, examples: Sequence[int]) -> tuple[float, int, int]:
    """Median seconds, requests and bytes of a read, which is checked."""
    expected, spent = values_of(LAYER)[list(examples)], []
    for _ in range(ROUNDS):
        before, found = counted(), []
        spent.append(seconds(lambda into=found: into.append(read(examples))))
        requests, nbytes = (now - then for now, then in zip(counted(), before, strict=True))
        assert torch.equal(found[0], expected), "everybody reads the same bits"
    return statistics.median(spent), requests, nbytes


def main(folder: Path) -> None:
    """Write, read, print."""
    os.environ["LAZYCACHE_CACHE_BYTES"] = "0"  # nobody keeps what was read before
    write(folder)
    need = len(NEAR) * TOKENS * WIDTH * 4
    print(machine())
    print(f"one layer of ten examples: {need:,} bytes; {LATENCY * 1e3:.0f} ms a request", end=", ")
    print(f"{PARALLEL} at once")
    rows = []
    for name, read in readers(folder).items():
        cells = []
        for examples in (NEAR, FAR):
            spent, requests, nbytes = measure(read, examples)
            cells += [requests, f"{nbytes:,}", f"{nbytes / need:.2f}", f"{spent * 1e3:.0f} ms"]
        rows.append([name, *cells])
    ten = ["requests", "bytes", "x needed", "time"]
    print_table(["", *(f"neighbours: {c}" for c in ten), *(f"anywhere: {c}" for c in ten)], rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as own:
        place = Path(sys.argv[1] if len(sys.argv) > 1 else own)
        place.mkdir(parents=True, exist_ok=True)
        main(place)
