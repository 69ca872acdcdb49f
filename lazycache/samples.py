"""A tiny dataset for first steps and for the examples of this documentation."""

from __future__ import annotations

import uuid

import numpy as np
import torch

from lazycache.cache.activation_cache import ActivationCache
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.dataset import open as open_dataset
from lazycache.storage.open_store import open_store
from lazycache.types import EXAMPLES, TOKENS, RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

LENGTHS = (2, 3, 1)
"""Tokens of each example of `small_cache`."""


def small_cache() -> ActivationCache:
    """Return a dataset in memory: one site, `resid_out_0`, of 3 examples with 2, 3 and 1 tokens.

    Each of its 6 rows has 2 units, the numbers 0 to 11 in float32.

    Example:
        >>> small_cache()["resid_out_0"].rows.load().tolist()[:3]
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    url = f"memory://lazycache-sample-{uuid.uuid4().hex}"
    store = open_store(url, create=True, storage_options=None)
    writer = DatasetWriter(
        store,
        snapshot=Snapshot.replay(create_dataset(store), []),
        run=RunInfo("main", {}),
        settings=Settings(
            queue_bytes=1 << 20,
            shard_bytes=1 << 20,
            chunk_rows=8192,
            commit_bytes=1 << 20,
            commit_seconds=60,
            rank=0,
        ),
    )
    writer.write(_batch())
    writer.close()
    return open_dataset(url)


def _batch() -> RowBatch:
    ids = np.arange(len(LENGTHS))
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in LENGTHS])
    tokens = {"example": np.repeat(ids, LENGTHS), "position": positions}
    values = torch.arange(2.0 * sum(LENGTHS)).reshape(-1, 2)
    return RowBatch(
        tables={
            TOKENS: TableBlock(sum(LENGTHS), tokens),
            EXAMPLES: TableBlock(len(LENGTHS), {"example": ids, "length": np.array(LENGTHS)}),
        },
        sites={"resid_out_0": SiteBlock(TOKENS, values)},
    )
