"""Datasets of the tests of the cache with the statistics that the writer stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from cache_helpers import Dataset

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.codec.dtypes import as_bytes
from lazycache.storage.open_store import open_store
from lazycache.types import RAGGED, ShardRef
from lazycache.writer import statistics as writing


class Known(Dataset):
    """Writes statistics of every shard, a block for every chunk or so."""

    def _shard(self, spec: Any, values: Any, *args: Any, **options: Any) -> ShardRef:
        ref = super()._shard(spec, values, *args, **options)
        if spec.layout == RAGGED:
            return ref
        path = ref.path.replace("data/", "stats/", 1)
        with (
            mock.patch.object(writing, "SMALLEST_SHARD", 0),
            mock.patch.object(writing, "_BLOCK_BYTES", 1),
        ):
            taken = writing.ShardStatistics(
                spec, path, create=self.store.create, shard_bytes=spec.row_bytes * len(values)
            )
            at = 0
            for chunk in ref.chunks:
                part = values[at : at + chunk.rows].contiguous()
                taken.add([(as_bytes(part), chunk.rows)])
                at += chunk.rows
            stats = taken.finish()
        return replace(ref, stats=stats)


def known(
    values: torch.Tensor,
    lengths: Sequence[int],
    *,
    order: Sequence[int] | None = None,
    statistics: bool = True,
    url: str = "memory://statistics",
    **commit: Any,
) -> tuple[Any, LazyTensor]:
    """Return a cache and its one site: examples of so many rows, ids in `order` as stored."""
    store = open_store(url, create=True, storage_options=None)
    dataset = Known(store) if statistics else Dataset(store)
    ids = range(len(lengths)) if order is None else order
    dataset.commit(list(zip(ids, lengths, strict=True)), {"s": values}, **commit)
    cache = dataset.cache()
    return cache, cache["s"]
