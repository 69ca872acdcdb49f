"""What one slice costs far away: `python -m benchmarks.bench_remote`.

The same activations, 256 examples of 64 tokens, 12 layers of 256 float32, stored by lazycache and
as people store them: torch files and safetensors shards of 64 examples with all layers, a HF
dataset's Parquet with a list column per layer, a zarr array per layer in chunks of one example.
From each "one layer of ten examples" is read over `far://`, where every request waits 20 ms and is
counted: ten neighbours, and ten anywhere. What a peer can read of a part of a file it may
(safetensors' header and range, Parquet's columns and row groups). The limit is one request for as
many bytes as were asked for.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import lazycache as lc
from benchmarks.alone import alone
from benchmarks.comparing import Bench, Comparison, Kind, Way, absent, compare
from benchmarks.far_store import counting

EXAMPLES, TOKENS, LAYERS = 256, 64, 12
PER_FILE = 64
GROUP_ROWS = 1000
"""Rows of a row group, as `datasets` writes them."""
LAYER = 5
NEAR = tuple(range(100, 110))
FAR = (3, 31, 64, 77, 105, 130, 166, 190, 222, 255)

SLICES = {
    "ten neighbours": (NEAR, "requests <= 1; bytes / values <= 1.01; limit >= 0.9"),
    "ten anywhere": (FAR, "best peer >= 1"),
}
"""What is read, and what ours is to reach."""

WHOLE_FILES = ("torch files", "safetensors shards, whole")

LIMIT = "one request for as many bytes"

Read = Callable[[Sequence[int]], torch.Tensor]


def values_of(layer: int, width: int) -> torch.Tensor:
    """The activations of a layer: [examples, tokens, width]."""
    generator = torch.Generator().manual_seed(layer)
    return torch.randn(EXAMPLES, TOKENS, width, generator=generator)


class Embedded(torch.nn.Module):
    """A model whose layers give what `values_of` says, so that everybody stores the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Embedding(
                EXAMPLES * TOKENS, width, _weight=values_of(i, width).reshape(-1, width)
            )
            for i in range(LAYERS)
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Look every token up in every layer."""
        return sum(layer(input_ids) for layer in self.layers)


def write(folder: Path, width: int) -> None:
    """Store the activations in every way that is installed."""
    ids = torch.arange(EXAMPLES * TOKENS).reshape(EXAMPLES, TOKENS)
    model = Embedded(width)
    with lc.capture(model, folder / "lazycache", "layers.*"):
        for first in range(0, EXAMPLES, PER_FILE):
            model(ids[first : first + PER_FILE])
    layers = {f"layer_{i}": values_of(i, width) for i in range(LAYERS)}
    for first in range(0, EXAMPLES, PER_FILE):
        # cloned: torch.save of a view writes all that the view is a part of
        part = {name: x[first : first + PER_FILE].clone() for name, x in layers.items()}
        torch.save(part, folder / f"{first}.pt")
        if not absent("safetensors"):
            write_safetensors(part, folder / f"{first}.safetensors")
    write_parquet(layers, folder / "hf.parquet", width)
    if not absent("zarr"):
        write_zarr(layers, folder / "zarr", width)


def write_safetensors(part: dict[str, torch.Tensor], path: Path) -> None:
    """One file with all layers of some examples."""
    from safetensors.torch import save_file

    save_file(part, path)


def write_parquet(layers: dict[str, torch.Tensor], path: Path, width: int) -> None:
    """One file with a list column for each layer, a row for each token."""
    columns: dict[str, pa.Array] = {
        "example": np.repeat(np.arange(EXAMPLES), TOKENS),
        "position": np.tile(np.arange(TOKENS), EXAMPLES),
    }
    for name, x in layers.items():
        offsets = pa.array(np.arange(EXAMPLES * TOKENS + 1, dtype=np.int32) * width)
        columns[name] = pa.ListArray.from_arrays(offsets, x.reshape(-1).numpy())
    pq.write_table(pa.table(columns), path, row_group_size=GROUP_ROWS)


def write_zarr(layers: dict[str, torch.Tensor], path: Path, width: int) -> None:
    """An array for each layer, a chunk for each example, not compressed: noise cannot be."""
    import zarr

    for name, x in layers.items():
        zarr.create_array(path / name, data=x.numpy(), chunks=(1, TOKENS, width), compressors=None)


def readers(folder: Path, width: int) -> dict[str, Read]:
    """Who reads, by name: each from nothing, as a new process would."""
    opened = lc.open(f"far://{folder}/lazycache")
    found: dict[str, Read] = {
        "lazycache, open already": lambda examples: ours(opened, examples),
        "lazycache, opened anew": lambda examples: ours(
            lc.open(f"far://{folder}/lazycache"), examples
        ),
        "torch files": lambda examples: torch_files(folder, examples),
        "HF Parquet, columns and row groups": lambda examples: parquet(folder, examples, width),
    }
    if not absent("safetensors"):
        found["safetensors shards, whole"] = lambda examples: whole_shards(folder, examples)
        found["safetensors, header and range"] = lambda examples: ranges(folder, examples, width)
    if not absent("zarr"):
        found["zarr, a chunk an example"] = lambda examples: chunks(folder, examples)
    return found


def ours(cache: lc.ActivationCache, examples: Sequence[int]) -> torch.Tensor:
    """A slice of a site."""
    return cache[f"layers.{LAYER}:out"][list(examples)].load()


def far() -> fsspec.AbstractFileSystem:
    """Where every request waits."""
    return fsspec.filesystem("far")


def gathered(parts: dict[int, torch.Tensor], examples: Sequence[int]) -> torch.Tensor:
    """Stack examples out of the files that hold them, by the first example of each."""
    return torch.stack([parts[one // PER_FILE * PER_FILE][one % PER_FILE] for one in examples])


def files_of(examples: Sequence[int]) -> list[int]:
    """Return the files that hold some of these examples, each by its first."""
    return sorted({one // PER_FILE * PER_FILE for one in examples})


def torch_files(folder: Path, examples: Sequence[int]) -> torch.Tensor:
    """Whole files: torch has to have all of one."""
    name, fs = f"layer_{LAYER}", far()
    raw = {first: fs.cat_file(f"{folder}/{first}.pt") for first in files_of(examples)}
    return gathered({f: torch.load(io.BytesIO(x))[name] for f, x in raw.items()}, examples)


def whole_shards(folder: Path, examples: Sequence[int]) -> torch.Tensor:
    """Whole files, as `load` of safetensors takes them."""
    from safetensors.torch import load

    name, fs = f"layer_{LAYER}", far()
    raw = {first: fs.cat_file(f"{folder}/{first}.safetensors") for first in files_of(examples)}
    return gathered({f: load(x)[name] for f, x in raw.items()}, examples)


def ranges(folder: Path, examples: Sequence[int], width: int) -> torch.Tensor:
    """Read the header of a file, then the range of a layer."""
    name, fs, found = f"layer_{LAYER}", far(), {}
    for first in files_of(examples):
        path = f"{folder}/{first}.safetensors"
        (size,) = struct.unpack("<Q", fs.cat_file(path, 0, 8))
        header = json.loads(fs.cat_file(path, 8, 8 + size))
        start, stop = (8 + size + place for place in header[name]["data_offsets"])
        raw = bytearray(fs.cat_file(path, start, stop))
        found[first] = torch.frombuffer(raw, dtype=torch.float32).view(-1, TOKENS, width)
    return gathered(found, examples)


def parquet(folder: Path, examples: Sequence[int], width: int) -> torch.Tensor:
    """One column of the row groups that hold the examples."""
    name, chosen = f"layer_{LAYER}", [("example", "in", list(examples))]
    table = pq.read_table(f"{folder}/hf.parquet", filesystem=far(), columns=[name], filters=chosen)
    flat = table[name].combine_chunks().flatten().to_numpy()
    return torch.from_numpy(flat.copy()).view(len(examples), TOKENS, width)


def chunks(folder: Path, examples: Sequence[int]) -> torch.Tensor:
    """The chunks of the examples, of a zarr array that is opened anew."""
    import zarr

    opened: Any = zarr.open_array(f"far://{folder}/zarr/layer_{LAYER}", mode="r")
    return torch.from_numpy(opened.oindex[list(examples)])


def one_request(folder: Path, count: int) -> Way:
    """Fetch so many bytes, of whatever file, by one request: no reader can be faster."""
    ask = Way(LIMIT, "limit", lambda: far().cat_file(f"{folder}/hf.parquet", 0, count))
    return counting(ask)


def run(bench: Bench) -> Iterator[Comparison]:
    """Read one layer of ten examples from everybody's files, far away."""
    os.environ["LAZYCACHE_CACHE_BYTES"] = "0"  # nobody keeps what was read before
    width = bench.size(256, 16)
    write(bench.folder, width)
    nbytes = len(NEAR) * TOKENS * width * 4
    found = readers(bench.folder, width)
    for what, (examples, goal) in SLICES.items():
        ways = [way(name, read, examples, width) for name, read in found.items()]
        ways += [Way(name, "peer", None, skipped=why) for name, why in lacking().items()]
        ways.append(one_request(bench.folder, nbytes))
        yield compare(f"one layer of {what}", ways, bench=bench, nbytes=nbytes, goal=goal)
    shutil.rmtree(bench.folder)
    bench.folder.mkdir()


def lacking() -> dict[str, str]:
    """Who is not measured, and why."""
    found = {"Lance": "it reads through its own object store, where requests are not counted"}
    for name, package in (("safetensors", "safetensors"), ("zarr", "zarr")):
        if why := absent(package):
            found[name] = why
    return found


def way(name: str, read: Read, examples: Sequence[int], width: int) -> Way:
    """One way of reading; its values are compared once."""
    if not torch.equal(read(examples), values_of(LAYER, width)[list(examples)]):
        raise SystemExit(f"{name} reads other values than were stored")
    kind: Kind = "ours" if name.startswith("lazycache") else "peer"
    rounds = 2 if name in WHOLE_FILES else None  # what passes at a known speed takes its time
    return counting(Way(name, kind, lambda: read(examples), rounds=rounds))


if __name__ == "__main__":
    alone(run)
