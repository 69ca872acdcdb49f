"""Plain hooks, and a file of every batch in a common format: what one writes by hand.

Nothing is synced to the disk here; lazycache syncs every file. Values are written as they are
handed over by the hooks, without a copy where the format allows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.capture_model import LAYERS, SITES, WIDTH, Setting, Values, hooked
from benchmarks.capture_peer import Kept, Peer


def named(seen: Values) -> dict[str, torch.Tensor]:
    """The values by the names of their sites."""
    return {SITES[layer]: value for layer, value in seen.items()}


def by_layer(batches: list[dict[str, torch.Tensor]]) -> Kept:
    """Join what was read of each batch."""
    return {
        n: torch.cat([one[SITES[n]].reshape(-1, WIDTH) for one in batches]) for n in range(LAYERS)
    }


class TorchSave(Peer):
    """`torch.save`, a file for each batch."""

    name = "hooks + torch.save"
    end = "pt"

    def run(self, setting: Setting, folder: Path) -> None:
        """Run the model and write."""
        with hooked(setting.model) as seen:
            setting.forward(lambda n: self.write(seen, folder / f"{n:04}.{self.end}"))

    def read(self, folder: Path) -> Kept:
        """Read what was written."""
        return by_layer([self.load(path) for path in sorted(folder.glob(f"*.{self.end}"))])

    def write(self, seen: Values, path: Path) -> None:
        """Write a batch."""
        torch.save(named(seen), path)

    def load(self, path: Path) -> dict[str, torch.Tensor]:
        """Read a batch."""
        found: dict[str, torch.Tensor] = torch.load(path)
        return found


class Safetensors(TorchSave):
    """safetensors, a file for each batch."""

    name, packages, end = "hooks + safetensors", ("safetensors",), "safetensors"

    def write(self, seen: Values, path: Path) -> None:
        """Write a batch."""
        from safetensors.torch import save_file

        save_file(named(seen), str(path))

    def load(self, path: Path) -> dict[str, torch.Tensor]:
        """Read a batch."""
        from safetensors.torch import load_file

        found: dict[str, torch.Tensor] = load_file(str(path))
        return found


def table_of(seen: Values) -> Any:
    """An Arrow table with a fixed-size list of each row; copies nothing."""
    import pyarrow as pa

    return pa.table(
        {
            SITES[n]: pa.FixedSizeListArray.from_arrays(pa.array(value.numpy().ravel()), WIDTH)
            for n, value in seen.items()
        }
    )


def tensors_of(table: Any) -> dict[str, torch.Tensor]:
    """The columns of an Arrow table as tensors."""
    return {
        name: torch.from_numpy(
            np.array(table[name].combine_chunks().flatten().to_numpy()).reshape(-1, WIDTH)
        )
        for name in table.column_names
    }


class ArrowIpc(TorchSave):
    """An Arrow IPC file for each batch."""

    name, packages, end = "hooks + Arrow IPC", ("pyarrow",), "arrow"

    def write(self, seen: Values, path: Path) -> None:
        """Write a batch."""
        import pyarrow as pa

        table = table_of(seen)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    def load(self, path: Path) -> dict[str, torch.Tensor]:
        """Read a batch."""
        import pyarrow as pa

        return tensors_of(pa.ipc.open_file(str(path)).read_all())


class ParquetLists(TorchSave):
    """A Parquet file of lists for each batch, by pyarrow, not compressed."""

    name, packages, end = "hooks + Parquet lists", ("pyarrow",), "parquet"

    def write(self, seen: Values, path: Path) -> None:
        """Write a batch."""
        import pyarrow.parquet as pq

        pq.write_table(table_of(seen), path, compression="none", use_dictionary=False)

    def load(self, path: Path) -> dict[str, torch.Tensor]:
        """Read a batch."""
        import pyarrow.parquet as pq

        return tensors_of(pq.read_table(path))


class HfDatasets(Peer):
    """The writer of HF datasets: one growing Arrow file."""

    name, packages = "hooks + HF datasets", ("datasets",)

    def run(self, setting: Setting, folder: Path) -> None:
        """Run the model and write."""
        import pyarrow as pa
        from datasets import Features, List, Value
        from datasets.arrow_writer import ArrowWriter

        rows = Features({name: List(Value("float32"), length=WIDTH) for name in SITES})
        writer = ArrowWriter(path=str(folder / "all.arrow"), features=rows)
        with hooked(setting.model) as seen:
            setting.forward(lambda _: writer.write_table(pa.table(table_of(seen))))
        writer.finalize()

    def read(self, folder: Path) -> Kept:
        """Read what was written."""
        from datasets import Dataset

        table = Dataset.from_file(str(folder / "all.arrow")).data.table
        return by_layer([tensors_of(table)])


FORMATS: list[Peer] = [TorchSave(), Safetensors(), ArrowIpc(), ParquetLists(), HfDatasets()]
