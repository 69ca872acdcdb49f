"""The ways in which activations are kept today, for `bench_read`: the same rows in each.

Every peer writes the raw matrix in its own format and gives tensors back: consecutive rows, rows by
number, everything. A peer that is not installed says so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

BATCH = 50_000
"""Rows that are converted at a time."""


class Peer(Protocol):
    """One format, written and opened."""

    def slice(self, start: int, stop: int) -> torch.Tensor:
        """Return consecutive rows."""
        ...

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Return rows by number, in the order given."""
        ...

    def whole(self) -> torch.Tensor:
        """Return all rows, in memory of their own."""
        ...


def of_bits(words: np.ndarray) -> torch.Tensor:
    """Words as the bfloat16 values whose bits they are; shares memory."""
    return torch.from_numpy(words).view(torch.bfloat16)


class Memmap:
    """`np.memmap` of the raw matrix: the limit, no format at all."""

    name = "np.memmap"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        self.raw, self.path = raw, Path(str(raw.filename))

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return of_bits(self.raw[start:stop])

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return of_bits(self.raw[rows])

    def whole(self) -> torch.Tensor:
        return of_bits(np.array(self.raw))


class Safetensors:
    """One safetensors file; rows by number through its own slices, or a load of everything."""

    name = "safetensors"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import save_file

        self.path = folder / "acts.safetensors"
        save_file({"x": of_bits(np.array(raw))}, self.path)
        self.file = safe_open(self.path, "pt")

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self.file.get_slice("x")[start:stop]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self.file.get_tensor("x")[torch.from_numpy(rows)]

    def whole(self) -> torch.Tensor:
        return self.file.get_tensor("x").clone()


class TorchMmap:
    """`torch.save`, read by `torch.load(mmap=True)`."""

    name = "torch.load(mmap)"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        self.path = folder / "acts.pt"
        torch.save(of_bits(np.array(raw)), self.path)
        self.values = torch.load(self.path, mmap=True, weights_only=True)

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self.values[start:stop]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self.values[torch.from_numpy(rows)]

    def whole(self) -> torch.Tensor:
        return self.values.clone()


class ArrowIpc:
    """An Arrow IPC file of fixed-size binary rows, memory-mapped."""

    name = "Arrow IPC"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import pyarrow as pa

        self.path, self.width = folder / "acts.arrow", raw.shape[1]
        kind = pa.binary(raw.shape[1] * 2)
        schema = pa.schema([("value", kind)])
        with pa.ipc.new_file(str(self.path), schema) as writer:
            for start in range(0, len(raw), 8192):
                part = np.ascontiguousarray(raw[start : start + 8192])
                buffers = [None, pa.py_buffer(part)]
                values = pa.FixedSizeBinaryArray.from_buffers(kind, len(part), buffers)
                writer.write_batch(pa.record_batch([values], schema=schema))
        self.table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self._rows(self.table["value"].slice(start, stop - start))

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self._rows(self.table["value"].take(rows))

    def whole(self) -> torch.Tensor:
        return self._rows(self.table["value"]).clone()

    def _rows(self, column: Any) -> torch.Tensor:
        parts = []
        for chunk in column.chunks:
            words = np.frombuffer(chunk.buffers()[1], np.uint16)
            begin = chunk.offset * self.width
            parts.append(words[begin : begin + len(chunk) * self.width])
        words = parts[0].copy() if len(parts) == 1 else np.concatenate(parts)
        return of_bits(words.reshape(-1, self.width))


class HfDatasets:
    """A `datasets.Dataset` of float16 rows with the same bits: it has no bfloat16."""

    name = "HF datasets"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import datasets
        import pyarrow as pa

        datasets.disable_progress_bars()
        self.path, width = folder / "hf", raw.shape[1]
        flat = pa.array(np.array(raw).reshape(-1).view(np.float16))
        column = pa.FixedSizeListArray.from_arrays(flat, width)
        datasets.Dataset(pa.table({"x": column})).save_to_disk(str(self.path))
        self.data = datasets.load_from_disk(str(self.path)).with_format("numpy")

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self._tensor(self.data[start:stop]["x"])

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self._tensor(self.data[rows]["x"])

    def whole(self) -> torch.Tensor:
        return self._tensor(self.data[:]["x"])

    def _tensor(self, values: Any) -> torch.Tensor:
        return of_bits(np.ascontiguousarray(values, np.float16).view(np.uint16))


class Lance:
    """A Lance dataset of fixed-size lists of float16 with the same bits."""

    name = "Lance"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import lance
        import pyarrow as pa

        self.path, self.width = folder / "acts.lance", raw.shape[1]
        kind = pa.list_(pa.float16(), self.width)
        schema = pa.schema([("x", kind)])

        def batches() -> Any:
            for start in range(0, len(raw), BATCH):
                flat = pa.array(np.array(raw[start : start + BATCH]).reshape(-1).view(np.float16))
                column = pa.FixedSizeListArray.from_arrays(flat, self.width)
                yield pa.record_batch([column], schema=schema)

        lance.write_dataset(batches(), str(self.path), schema=schema)
        self.data = lance.dataset(str(self.path))

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self._tensor(self.data.to_table(offset=start, limit=stop - start))

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self._tensor(self.data.take(rows))

    def whole(self) -> torch.Tensor:
        return self._tensor(self.data.to_table())

    def _tensor(self, table: Any) -> torch.Tensor:
        parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["x"].chunks]
        words = parts[0].copy() if len(parts) == 1 else np.concatenate(parts)
        return of_bits(words.view(np.uint16).reshape(-1, self.width))


PEERS: dict[type[Any], str | None] = {
    Memmap: None,
    Safetensors: "safetensors",
    TorchMmap: None,
    ArrowIpc: "pyarrow",
    HfDatasets: "datasets",
    Lance: "lance",
}
"""Every peer and the module that it needs."""


def missing(peer: type[Any]) -> str | None:
    """The module that a peer needs and this Python lacks."""
    needs = PEERS[peer]
    return needs if needs and importlib.util.find_spec(needs) is None else None
