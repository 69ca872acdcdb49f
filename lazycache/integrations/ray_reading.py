"""Rows of a dataset in pieces, each of which a task of Ray reads by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from lazycache.errors import SelectionError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.storage.open_store import Url
from lazycache.types import INDEX_COLUMNS, RAGGED

BLOCK_BYTES = 64 << 20
"""Bytes of activations in a piece, about."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read, by whichever task."""

    url: Url
    """Where the dataset is."""
    version: int
    """The snapshot."""
    sites: tuple[str, ...]
    """Sites of one table."""
    where: str | None = None
    """Condition on the rows."""
    columns: tuple[str, ...] = ()
    """What a row has beside its index and its sites."""
    storage_options: Mapping[str, Any] | None = None
    """Handed to fsspec."""

    def opened(self) -> ActivationCache:
        """Open the dataset at the snapshot."""
        return open_dataset(
            self.url,
            snapshot=self.version,
            where=self.where,
            storage_options=self.storage_options,
        )


def pieces_of(reading: Reading, *, block_bytes: int) -> list[tuple[int, int]]:
    """Return the first row of each piece and the one after its last.

    Raises:
        SelectionError: sites that do not have the same rows, rows that differ in width, no row.
        SiteNotFoundError: no such site.

    Cost: reads the log, and what the condition asks.
    """
    with reading.opened() as cache:
        tensors = {name: cache[name] for name in reading.sites}
        specs = [cache.sites[name] for name in reading.sites]
        ragged = [spec.name for spec in specs if spec.layout == RAGGED]
        if ragged:
            raise SelectionError(f"The rows of {ragged[0]!r} differ in width: no tensor of Ray.")
        counts = {
            f"{name} ({spec.table})": (spec.table, len(tensors[name].rows))
            for name, spec in zip(reading.sites, specs, strict=True)
        }
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{name}: {rows:,} rows" for name, (_, rows) in counts.items())
            raise SelectionError(f"The sites do not have the same rows: {shown}. Read them apart.")
        rows = len(tensors[reading.sites[0]].rows)
        if not rows:
            raise SelectionError(f"No row of {reading.sites[0]!r} is left to read.")
        row_bytes = sum(_bytes_per_row(tensors[name]) for name in reading.sites)
    step = max(1, block_bytes // row_bytes)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def read_piece(batch: Mapping[str, np.ndarray], *, reading: Reading) -> dict[str, np.ndarray]:
    """Read the piece that a batch of one row names: index, columns, and sites as arrays."""
    rows = slice(int(batch["start"][0]), int(batch["stop"][0]))
    found: dict[str, np.ndarray] = {}
    with reading.opened() as cache:
        table = cache.sites[reading.sites[0]].table
        first = cache[reading.sites[0]].rows[rows]
        for name in dict.fromkeys((*INDEX_COLUMNS[table], *reading.columns)):
            found[name] = np.asarray(first.column(name))
        for name in reading.sites:
            found[name] = _array(cache[name].rows[rows].load())
    return found


def _bytes_per_row(tensor: Any) -> int:
    return max(1, int(prod(tensor.row_shape) * tensor.dtype.itemsize))


def _array(values: torch.Tensor) -> np.ndarray:
    # numpy has no bfloat16; float32 holds each of its values. A copy: the map goes with the cache
    plain = values.float() if values.dtype == torch.bfloat16 else values
    return np.array(plain.numpy())
