"""The ways in which activations are kept today, for `bench_read`: the same rows in each.

Every peer writes the raw matrix in its own format and gives tensors back: consecutive rows, rows by
number, everything, each in memory that may be written to or shared as the format likes it. It can
be closed and opened again, so that it is read cold. Peers are imported where they are used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

BATCH = 50_000
"""Rows that are converted at a time."""

CHUNK = 1024
"""Rows of a chunk of the formats that have chunks: 1.5 MB."""


class Peer(Protocol):
    """One format, written; opened and closed."""

    name: str
    note: str
    paths: list[Path]

    def open(self) -> None:
        """Open the files."""
        ...

    def close(self) -> None:
        """Let go of the files, and of what is mapped of them."""
        ...

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
    note = ""

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        self.paths, self.shape = [Path(str(raw.filename))], raw.shape

    def open(self) -> None:
        self.raw = np.memmap(self.paths[0], np.uint16, "c", shape=self.shape)

    def close(self) -> None:
        del self.raw

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return of_bits(self.raw[start:stop])

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return of_bits(self.raw[rows])

    def whole(self) -> torch.Tensor:
        return of_bits(np.array(self.raw))

    def mean(self) -> torch.Tensor:
        return self.slice(0, len(self.raw)).mean(0, dtype=torch.float64)

    streamed_mean = mean


class Safetensors:
    """One safetensors file; rows by number through its own slices, or a load of everything."""

    name = "safetensors"
    note = ""

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        from safetensors.torch import save_file

        self.paths = [folder / "acts.safetensors"]
        save_file({"x": of_bits(np.array(raw))}, self.paths[0])

    def open(self) -> None:
        from safetensors import safe_open

        self.file: Any = safe_open(self.paths[0], "pt")

    def close(self) -> None:
        del self.file

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self.file.get_slice("x")[start:stop]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self.file.get_tensor("x")[torch.from_numpy(rows)]

    def whole(self) -> torch.Tensor:
        return self.file.get_tensor("x").clone()


class TorchMmap:
    """`torch.save`, read by `torch.load(mmap=True)`."""

    name = "torch.load(mmap)"
    note = ""

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        self.paths = [folder / "acts.pt"]
        torch.save(of_bits(np.array(raw)), self.paths[0])

    def open(self) -> None:
        self.values = torch.load(self.paths[0], mmap=True, weights_only=True)

    def close(self) -> None:
        del self.values

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self.values[start:stop]

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self.values[torch.from_numpy(rows)]

    def whole(self) -> torch.Tensor:
        return self.values.clone()


class TensorDictMemmap(TorchMmap):
    """A memory-mapped tensor of tensordict."""

    name = "tensordict memmap"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        from tensordict import TensorDict

        self.paths = [folder / "tensordict"]
        values = TensorDict({"x": of_bits(np.array(raw))}, batch_size=[len(raw)])
        values.memmap(str(self.paths[0]))

    def open(self) -> None:
        from tensordict import TensorDict

        self.values = TensorDict.load_memmap(str(self.paths[0]))["x"]

    def slice(self, start: int, stop: int) -> torch.Tensor:
        found: torch.Tensor = self.values[start:stop]
        return found


class ArrowIpc:
    """An Arrow IPC file of fixed-size binary rows, memory-mapped."""

    name = "Arrow IPC"
    note = ""

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import pyarrow as pa

        self.paths, self.width = [folder / "acts.arrow"], raw.shape[1]
        kind = pa.binary(raw.shape[1] * 2)
        schema = pa.schema([("value", kind)])
        with pa.ipc.new_file(str(self.paths[0]), schema) as writer:
            for start in range(0, len(raw), 8192):
                part = np.ascontiguousarray(raw[start : start + 8192])
                buffers = [None, pa.py_buffer(part)]
                values = pa.FixedSizeBinaryArray.from_buffers(kind, len(part), buffers)
                writer.write_batch(pa.record_batch([values], schema=schema))

    def open(self) -> None:
        import pyarrow as pa

        self.table = pa.ipc.open_file(pa.memory_map(str(self.paths[0]))).read_all()

    def close(self) -> None:
        del self.table

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return self._rows(self.table["value"].slice(start, stop - start))

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return self._rows(self.table["value"].take(rows))

    def whole(self) -> torch.Tensor:
        return self._rows(self.table["value"])

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
    note = "holds the bits as float16: it has no bfloat16"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import datasets
        import pyarrow as pa

        datasets.disable_progress_bars()
        self.paths, width = [folder / "hf"], raw.shape[1]
        flat = pa.array(np.array(raw).reshape(-1).view(np.float16))
        column = pa.FixedSizeListArray.from_arrays(flat, width)
        datasets.Dataset(pa.table({"x": column})).save_to_disk(str(self.paths[0]))

    def open(self) -> None:
        import datasets

        self.data = datasets.load_from_disk(str(self.paths[0])).with_format("numpy")

    def close(self) -> None:
        del self.data

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
    note = "holds the bits as float16"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import lance
        import pyarrow as pa

        self.paths, self.width = [folder / "acts.lance"], raw.shape[1]
        kind = pa.list_(pa.float16(), self.width)
        schema = pa.schema([("x", kind)])

        def batches() -> Any:
            for start in range(0, len(raw), BATCH):
                flat = pa.array(np.array(raw[start : start + BATCH]).reshape(-1).view(np.float16))
                column = pa.FixedSizeListArray.from_arrays(flat, self.width)
                yield pa.record_batch([column], schema=schema)

        lance.write_dataset(batches(), str(self.paths[0]), schema=schema)

    def open(self) -> None:
        import lance

        self.data = lance.dataset(str(self.paths[0]))

    def close(self) -> None:
        del self.data

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


class Zarr:
    """A Zarr array of the words, in chunks of 1,024 rows, not compressed."""

    name = "zarr"
    note = "holds the bits as uint16: it has no bfloat16; not compressed, which is its fastest"

    def __init__(self, raw: np.memmap, folder: Path) -> None:
        import zarr

        self.paths = [folder / "acts.zarr"]
        array = zarr.create_array(
            str(self.paths[0]),
            shape=raw.shape,
            chunks=(min(CHUNK, len(raw)), raw.shape[1]),
            dtype="uint16",
            compressors=None,
        )
        array[:] = np.array(raw)

    def open(self) -> None:
        import zarr

        self.array: Any = zarr.open_array(str(self.paths[0]), mode="r")

    def close(self) -> None:
        del self.array

    def slice(self, start: int, stop: int) -> torch.Tensor:
        return of_bits(self.array[start:stop])

    def take(self, rows: np.ndarray) -> torch.Tensor:
        return of_bits(self.array.oindex[rows, slice(None)])

    def whole(self) -> torch.Tensor:
        return of_bits(self.array[:])


PEERS: dict[type[Any], str] = {
    Memmap: "numpy",
    Safetensors: "safetensors",
    TorchMmap: "torch",
    TensorDictMemmap: "tensordict",
    ArrowIpc: "pyarrow",
    HfDatasets: "datasets",
    Lance: "lance",
    Zarr: "zarr",
}
"""Every peer and the module that it needs."""
