"""Datasets with texts of tokens, of values that the tests choose."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import lazycache as lc
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.open_store import open_store
from lazycache.types import EXAMPLES, TOKENS, RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

_NUMBERS = itertools.count()


def corpus(
    values: Mapping[str, torch.Tensor],
    lengths: Sequence[int],
    *,
    tokens: Sequence[str | None] | None = None,
    pooled: Mapping[str, torch.Tensor] | None = None,
    step: int = 1,
    lacking: int = 0,
    **settings: Any,
) -> lc.ActivationCache:
    """Return a dataset in memory: sites of tokens, and of examples, with positions `step` apart.

    The last example may have tokens that are `lacking` these sites.
    """
    url = f"memory://top-{next(_NUMBERS)}"
    store = open_store(url, create=True, storage_options=None)
    kept = {"queue_bytes": 1 << 22, "shard_bytes": 1 << 15, "chunk_rows": 128, "rank": 0}
    kept |= {"commit_bytes": 1 << 22, "commit_seconds": 60}
    writer = DatasetWriter(
        store,
        snapshot=Snapshot.replay(create_dataset(store), []),
        run=RunInfo("main", {}),
        settings=Settings(**{**kept, **settings}),
    )
    ids, rows = np.arange(len(lengths)), sum(lengths)
    columns: dict[str, Any] = {
        "example": np.repeat(ids, lengths),
        "position": np.concatenate([np.arange(n, dtype=np.int32) * step for n in lengths]),
    }
    if tokens is not None:
        columns["token"] = list(tokens)
    tables = {
        TOKENS: TableBlock(rows, columns),
        EXAMPLES: TableBlock(len(ids), {"example": ids, "length": np.array(lengths)}),
    }
    sites = {name: SiteBlock(TOKENS, one) for name, one in values.items()}
    sites |= {name: SiteBlock(EXAMPLES, one) for name, one in (pooled or {}).items()}
    writer.write(RowBatch(tables=tables, sites=sites))
    if lacking:
        last, positions = np.array([len(ids)]), np.arange(lacking, dtype=np.int32)
        columns = {"example": last.repeat(lacking), "position": positions}
        tables = {
            TOKENS: TableBlock(lacking, columns),
            EXAMPLES: TableBlock(1, {"example": last, "length": np.array([lacking])}),
        }
        writer.write(RowBatch(tables=tables, sites={"y": SiteBlock(TOKENS, torch.zeros(lacking))}))
    writer.close()
    return lc.open(url)
