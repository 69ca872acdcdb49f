"""A tiny dataset for first steps and for the examples of this documentation."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.storage.open_store import open_store
from lazycache.types import EXAMPLES, TOKENS, RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

LENGTHS = (2, 3, 1)
"""Tokens of each example of the samples."""

ROWS = sum(LENGTHS)
"""Tokens of all of them."""

NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


def small_cache() -> ActivationCache:
    """Return a dataset in memory: one site, `resid_out_0`, of 3 examples with 2, 3 and 1 tokens.

    Each of its 6 rows has 2 units, the numbers 0 to 11 in float32.

    Example:
        >>> small_cache()["resid_out_0"].rows.load().tolist()[:3]
        [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """
    return _written({"resid_out_0": SiteBlock(TOKENS, torch.arange(2.0 * ROWS).reshape(-1, 2))})


def text_cache() -> ActivationCache:
    """Return the dataset of `small_cache` with a text of each token, as a tokenizer cuts them.

    Example:
        >>> text_cache().top_k("resid_out_0", 1, k=2)
        Hits of resid_out_0: 2
          value  row  example  position  context
             11    5        2         0  [Stop]
              9    4        1         2  A cat[.]
    """
    site = SiteBlock(TOKENS, torch.arange(2.0 * ROWS).reshape(-1, 2))
    return _written({"resid_out_0": site}, tokens=["The", " end", "A", " cat", ".", "Stop"])


def pattern_cache() -> ActivationCache:
    """Return a dataset in memory with attention: the examples of `small_cache`, 2 heads.

    `pattern_0`: in head 0 each token attends to itself and to all before it alike, in head 1 to
    itself. `z_0`, one unit per head: in head 0 the number of the row, in head 1 ten times that.
    `head_out_0` is computed from it.

    Example:
        >>> pattern_cache()
        ActivationCache(`head_out_0`, `pattern_0`, `z_0`)
    """
    rows = [
        torch.stack([torch.arange(n) <= q, torch.arange(n) == q]).float()
        for n in LENGTHS
        for q in range(n)
    ]
    pattern = SiteBlock(
        TOKENS,
        torch.cat([(row / row.sum(1, keepdim=True)).flatten() for row in rows]),
        shape=(2, -1),
        widths=np.array([row.shape[1] for row in rows], dtype=np.int32),
    )
    z = torch.arange(float(ROWS)).reshape(-1, 1, 1) * torch.tensor([[1.0], [10.0]])
    projection = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, -1.0]]])
    return _written(
        {"pattern_0": pattern, "z_0": SiteBlock(TOKENS, z)},
        arrays={"head_out_0.weight": projection},
        heads={"": [2, 2]},
    )


def _written(
    sites: Mapping[str, SiteBlock],
    /,
    *,
    arrays: Mapping[str, torch.Tensor] = NOTHING,
    tokens: Sequence[str] | None = None,
    **info: Any,
) -> ActivationCache:
    url = f"memory://lazycache-sample-{uuid.uuid4().hex}"
    store = open_store(url, create=True, storage_options=None)
    writer = DatasetWriter(
        store,
        snapshot=Snapshot.replay(create_dataset(store), []),
        run=RunInfo("main", info),
        settings=Settings(
            queue_bytes=1 << 20,
            shard_bytes=1 << 20,
            chunk_rows=8192,
            commit_bytes=1 << 20,
            commit_seconds=60,
            rank=0,
        ),
        arrays=arrays,
    )
    writer.write(_batch(sites, tokens))
    writer.close()
    return open_dataset(url)


def _batch(sites: Mapping[str, SiteBlock], texts: Sequence[str] | None) -> RowBatch:
    ids = np.arange(len(LENGTHS))
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in LENGTHS])
    tokens: dict[str, Any] = {"example": np.repeat(ids, LENGTHS), "position": positions}
    if texts is not None:
        tokens["token"] = list(texts)
    return RowBatch(
        tables={
            TOKENS: TableBlock(ROWS, tokens),
            EXAMPLES: TableBlock(len(LENGTHS), {"example": ids, "length": np.array(LENGTHS)}),
        },
        sites=sites,
    )
