"""Datasets for the tests of the cache: real shards and a real snapshot, without the writer."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.files.gather import words_of
from lazycache.cache.reading.reader import Reader
from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.dtypes import as_bytes
from lazycache.codec.shard import ShardEncoder
from lazycache.codec.spec import spec_of
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.storage.layout import site_dir
from lazycache.storage.open_store import open_store
from lazycache.types import (
    RAGGED,
    ArrayRef,
    Commit,
    Identity,
    IoCounters,
    RunInfo,
    ShardRef,
    SiteSpec,
    TableFileRef,
)

Values = torch.Tensor | list[torch.Tensor]
"""[rows, *shape], or a tensor [heads, width] for each row of a ragged site."""

_names = itertools.count()


def _spec_of(name: str, table: str, values: Values) -> SiteSpec:
    if not isinstance(values, list):
        return spec_of(name, table, values)
    heads, dtype = values[0].shape[0], values[0].dtype
    known = str(dtype).removeprefix("torch.")
    return SiteSpec(name, table, known, (heads, -1), heads * dtype.itemsize, RAGGED)


@dataclass
class Dataset:
    """A dataset that grows commit by commit, as the writer would leave it."""

    store: Any
    snapshot: Snapshot = field(
        default_factory=lambda: Snapshot.replay(Identity(1, "u" * 32, "2026-01-01T00:00:00Z"), [])
    )

    def commit(
        self,
        examples: Sequence[tuple[int, int]],
        sites: dict[str, Values],
        *,
        table: str = "tokens",
        run: str = "main",
        chunk_rows: int = 4,
        shard_rows: int = 10,
        covers: int | None = None,
        row_start: int = 0,
        add_rows: bool = True,
        info: dict[str, Any] | None = None,
        arrays: dict[str, torch.Tensor] | None = None,
        tile: int | None = None,
    ) -> None:
        """Add (example, rows) extents in storage order, and the sites' values of these rows.

        A list of [heads, width] tensors, one for each row, makes a ragged site.
        """
        version = self.snapshot.version + 1
        ids = np.repeat([e for e, _ in examples], [n for _, n in examples]).astype(np.int64)
        positions = np.concatenate([np.arange(n) for _, n in examples] or [np.empty(0)])
        shards, specs = [], []
        for name, values in sites.items():
            spec = _spec_of(name, table, values)
            specs.append(spec)
            for at in range(0, len(values), shard_rows):
                part = slice(at, at + shard_rows)
                shards.append(
                    self._shard(
                        spec,
                        values[part],
                        ids[part],
                        positions[part].astype(np.int32),
                        chunk_rows=chunk_rows,
                        row_start=row_start + at,
                        covers=covers,
                        tile=tile,
                    )
                )
        tables = [self._table(table, examples)] if add_rows else []
        commit = Commit(
            version=version,
            txn=f"t{version}",
            writer="test",
            time="2026-01-01T00:00:00Z",
            run=run,
            runs=(RunInfo(run, info or {}),),
            sites=tuple(specs),
            tables=tuple(tables),
            shards=tuple(shards),
            arrays=tuple(self._array(name, values) for name, values in (arrays or {}).items()),
        )
        self.snapshot = Snapshot.replay(self.snapshot.identity, [commit], self.snapshot)

    def reader(self, **options: Any) -> Reader:
        return Reader(self.store, self.snapshot, io=IoCounters(), **options)

    def cache(self, **options: Any) -> ActivationCache:
        return ActivationCache(stored=StoredSites(self.store, self.snapshot, **options))

    def _shard(
        self,
        spec: SiteSpec,
        values: Values,
        ids: np.ndarray,
        positions: np.ndarray,
        *,
        chunk_rows: int,
        row_start: int,
        covers: int | None,
        tile: int | None,
    ) -> ShardRef:
        file = bytearray()
        encoder = ShardEncoder(spec, write=lambda pieces: file.extend(b"".join(pieces)), tile=tile)
        chunks = []
        for at in range(0, len(values), chunk_rows):
            part = slice(at, at + chunk_rows)
            index = {"example": ids[part], "position": positions[part], "call": positions[part]}
            if isinstance(values, list):
                index["width"] = np.array([row.shape[1] for row in values[part]], dtype=np.int32)
                pieces = [as_bytes(row.contiguous()) for row in values[part]]
            else:
                pieces = [as_bytes(values[part].contiguous())]
            chunks.append(encoder.add_chunk(pieces, index))
        encoder.finish()
        path = f"data/{site_dir(spec.name)}/{next(_names):032x}-r0.parquet"
        self.store.put(path, bytes(file))
        return ShardRef(
            spec.name, path, len(file), len(values), row_start, covers, tuple(chunks), tile=tile
        )

    def _array(self, name: str, values: torch.Tensor) -> ArrayRef:
        file = bytearray(64) + bytes(as_bytes(values.contiguous())) + bytes(8)
        path = f"arrays/{name}/{next(_names):032x}-r0.parquet"
        self.store.put(path, bytes(file))
        dtype = str(values.dtype).removeprefix("torch.")
        crc = zlib.crc32(file[64:-8])
        return ArrayRef(name, path, len(file), dtype, tuple(values.shape), 64, crc)

    @staticmethod
    def _table(table: str, examples: Sequence[tuple[int, int]]) -> TableFileRef:
        rows = sum(n for _, n in examples)
        return TableFileRef(
            table,
            f"tables/{table}/{next(_names):032x}-r0.parquet",
            1,
            rows,
            0,
            {"example": "int64"},
            np.array([e for e, _ in examples], dtype=np.int64),
            np.array([n for _, n in examples], dtype=np.int64),
        )


def counting(rows: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return [rows, *shape] values that differ from their neighbours in any dtype."""
    count = rows * int(np.prod(shape))
    values = torch.arange(count) % 251
    return values.to(dtype).reshape(rows, *shape)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors agree in shape, dtype and every bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(words_of(a), words_of(b))


def small_cache() -> ActivationCache:
    """Return a cache of one site, `resid_out_0`: examples of 2, 3 and 1 rows of 2 units."""
    dataset = Dataset(open_store("memory://small", create=True, storage_options=None))
    values = torch.arange(12, dtype=torch.float32).reshape(6, 2)
    dataset.commit([(0, 2), (1, 3), (2, 1)], {"resid_out_0": values})
    return dataset.cache()
