"""Whole rows of a ragged site as they are stored: one behind the other, and their widths."""

from __future__ import annotations

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor
from lazycache.cache.files.ragged_rows import Wanted
from lazycache.cache.reading.row_reader import RowReader
from lazycache.codec.dtypes import by_name
from lazycache.types import SiteSpec


def flat_values(
    reader: RowReader, spec: SiteSpec, rows: np.ndarray, *, heads: np.ndarray | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the values of absolute rows, [elements], and their widths, int32[rows].

    Of some heads only, int64[h], if they are given.

    Cost: one allocation and one copy.

    Raises:
        SelectionError: the site does not have one of the rows.
        CorruptShardError: a shard is not what the log recorded.
    """
    dtype = by_name(spec.dtype)
    wanted_heads = np.arange(spec.shape[0]) if heads is None else heads
    if not len(rows):
        return torch.empty(0, dtype=dtype.torch), np.empty(0, np.int32)
    widths = np.asarray(reader.widths(spec.name, rows), np.int64)
    starts = np.concatenate([[0], np.cumsum(widths * len(wanted_heads))])
    words = np.empty(int(starts[-1]), f"u{dtype.itemsize}")
    wanted = Wanted(
        rows=rows,
        owner=np.zeros(len(rows), np.int64),
        heads=wanted_heads,
        low=np.zeros(1, np.int64),
        high=widths.max(keepdims=True),
    )
    for block in reader.ragged(spec.name, wanted):
        count, width = len(block.values), int(widths[block.at])
        begin = int(starts[block.at])
        target = words[begin : begin + count * len(wanted_heads) * width]
        target.reshape(count, -1, width)[:, block.heads] = block.values
    return as_tensor(words.view(np.uint8), dtype.torch, words.shape), widths.astype(np.int32)
