"""How activations are written today, for `bench_write`: the same tensor in each format.

None of them syncs; what has no bfloat16 writes words of 16 bits, which costs it nothing. Peers are
imported where they are used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.comparing import Way, absent

ROWS = 8192
"""Rows that are written at a time by the formats that append."""

Save = Callable[[torch.Tensor, Path], object]


def words(values: torch.Tensor) -> np.ndarray:
    """Return the values as numpy has them: bfloat16 as the float16 of the same bits."""
    bits = values.view(torch.float16) if values.dtype == torch.bfloat16 else values
    found: np.ndarray = bits.numpy()
    return found


def safetensors(values: torch.Tensor, path: Path) -> None:
    """One tensor."""
    from safetensors.torch import save_file

    save_file({"x": values}, path)


def arrow_ipc(values: torch.Tensor, path: Path) -> None:
    """Record batches of fixed-size binary rows: no copy."""
    import pyarrow as pa

    matrix = words(values)
    schema = pa.schema([("x", pa.binary(matrix[0].nbytes))])
    with pa.ipc.new_file(str(path), schema) as writer:
        for start in range(0, len(matrix), ROWS):
            part = matrix[start : start + ROWS]
            rows = pa.FixedSizeBinaryArray.from_buffers(
                schema.types[0], len(part), [None, pa.py_buffer(part)]
            )
            writer.write_batch(pa.record_batch([rows], schema=schema))


def parquet_lists(values: torch.Tensor, path: Path) -> None:
    """Row groups of fixed-size lists by pyarrow, in its fastest settings."""
    import pyarrow.parquet as pq

    batches = list(_lists(values))
    with pq.ParquetWriter(
        path, batches[0].schema, compression="none", use_dictionary=False, write_statistics=False
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)


def hf_datasets(values: torch.Tensor, path: Path) -> None:
    """A `datasets.Dataset`, saved to disk."""
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    datasets.Dataset(pa.Table.from_batches(list(_lists(values)))).save_to_disk(str(path))


def lance_dataset(values: torch.Tensor, path: Path) -> None:
    """A Lance dataset of fixed-size lists."""
    import lance

    batches = list(_lists(values))
    lance.write_dataset(iter(batches), str(path), schema=batches[0].schema)


def zarr_array(values: torch.Tensor, path: Path) -> None:
    """A Zarr array in chunks of `ROWS` rows, not compressed, which is its fastest."""
    import zarr

    matrix = words(values)
    array = zarr.create_array(
        str(path),
        shape=matrix.shape,
        chunks=(min(ROWS, len(matrix)), matrix.shape[1]),
        dtype=matrix.dtype,
        compressors=None,
    )
    array[:] = matrix


def tensordict_memmap(values: torch.Tensor, path: Path) -> None:
    """A memory-mapped tensor of tensordict."""
    from tensordict import TensorDict

    TensorDict({"x": values}, batch_size=[len(values)]).memmap(str(path))


_PEERS: dict[str, tuple[Save, tuple[str, ...]]] = {
    "safetensors": (safetensors, ("safetensors",)),
    "torch.save": (torch.save, ()),
    "Arrow IPC": (arrow_ipc, ("pyarrow",)),
    "Parquet lists": (parquet_lists, ("pyarrow",)),
    "HF datasets": (hf_datasets, ("datasets",)),
    "Lance": (lance_dataset, ("lance",)),
    "zarr": (zarr_array, ("zarr",)),
    "tensordict memmap": (tensordict_memmap, ("tensordict",)),
}


def peers(values: torch.Tensor, folder: Path) -> list[Way]:
    """Return every peer as a way of writing these values into a folder."""
    return [
        _way(name, save, values, folder / f"peer-{number}", skipped=absent(*packages))
        for number, (name, (save, packages)) in enumerate(_PEERS.items())
    ]


def counted(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def gone(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _way(name: str, save: Save, values: torch.Tensor, path: Path, *, skipped: str) -> Way:
    way = Way(name, "peer", None, skipped=skipped, before=lambda: gone(path))

    def run() -> None:
        save(values, path)
        way.nbytes = counted(path)

    way.run = None if skipped else run
    return way


def _lists(values: torch.Tensor) -> Iterator[Any]:
    import pyarrow as pa

    matrix = words(values)
    for start in range(0, len(matrix), ROWS):
        flat = pa.array(matrix[start : start + ROWS].reshape(-1))
        rows = pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
        yield pa.record_batch([rows], names=["x"])
