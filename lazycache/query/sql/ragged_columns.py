"""Attention patterns in SQL: rows [heads, keys], each with keys of its own.

A value is a list of heads, each a list of the row's keys. A key that a row does not have is NULL:
the forward pass did not know it. Of negative keys -1 is the last one of each row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import torch

from lazycache.cache.files.gather import as_tensor
from lazycache.cache.files.ragged_rows import Wanted
from lazycache.cache.reading.ragged_values import flat_values
from lazycache.cache.reading.row_reader import RowReader
from lazycache.codec import dtypes
from lazycache.query.sql.arrow_lists import array_of, lists
from lazycache.types import SiteSpec

Groups: TypeAlias = "Iterable[tuple[tuple[int, ...], np.ndarray]]"
"""Heads that are asked for, each with the places that ask for it: (head,), int64[n]."""


def values(reader: RowReader, spec: SiteSpec, ids: np.ndarray, present: np.ndarray) -> pa.Array:
    """Return whole rows as lists of lists; NULL where they are not present."""
    flat, widths = flat_values(reader, spec, ids[present])
    heads = spec.shape[0]
    inner = lists(_plain(flat), _offsets(np.repeat(widths, heads)))
    return lists(inner, _offsets(present * heads), mask=_mask(present))


def heads(
    reader: RowReader, spec: SiteSpec, ids: np.ndarray, present: np.ndarray, groups: Groups
) -> pa.Array:
    """Return one head of each row as a list; NULL where none is present. Reads these heads only."""
    parts, widths = [], np.zeros(len(ids), np.int64)
    places = [np.empty(0, np.int64)]
    for head, members in groups:
        flat, widths[members] = flat_values(reader, spec, ids[members], heads=np.array(head))
        parts.append(flat)
        places.append(members)
    flat = torch.cat(parts) if parts else torch.empty(0, dtype=dtypes.by_name(spec.dtype).torch)
    order = np.concatenate(places)
    if len(parts) > 1:  # rows of several heads were read head by head
        flat = flat[torch.from_numpy(_reordered(order, widths))]
    return lists(_plain(flat), _offsets(widths), mask=_mask(present))


def units(
    reader: RowReader, spec: SiteSpec, ids: np.ndarray, keys: np.ndarray, groups: Groups
) -> pa.Array:
    """Return one number of each row; NULL where it has no such key. Reads these numbers only.

    Costs the widths of the rows' chunks too, which are kept.
    """
    dtype = dtypes.by_name(spec.dtype)
    words = np.zeros(len(ids), f"u{dtype.itemsize}")
    there = np.zeros(len(ids), bool)
    for head, members in groups:
        widths = np.asarray(reader.widths(spec.name, ids[members]), np.int64)
        wanted = np.where(keys[members] < 0, keys[members] + widths, keys[members])
        having = (wanted >= 0) & (wanted < widths)
        places, low = members[having], wanted[having]
        first, owner = np.unique(low, return_inverse=True)
        asked = Wanted(ids[places], owner.reshape(-1), np.array(head), first, first + 1)
        for block in reader.ragged(spec.name, asked):
            words[places[block.at : block.at + len(block.values)]] = block.values[:, 0, 0]
        there[places] = True
    flat = as_tensor(words.view(np.uint8), dtype.torch, words.shape)
    return _plain(flat, missing=~there)


def _plain(flat: torch.Tensor, *, missing: np.ndarray | None = None) -> pa.Array:
    narrow = flat.is_floating_point() and flat.dtype.itemsize < torch.float32.itemsize
    return array_of((flat.float() if narrow else flat).numpy(), missing=missing)


def _offsets(widths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])


def _mask(present: np.ndarray) -> pa.Array | None:
    return None if present.all() else array_of(~present)


def _reordered(order: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return where the values of each row are, row after row, that were read in another order."""
    starts = np.zeros(len(widths), np.int64)
    starts[order] = _offsets(widths[order])[:-1]
    inside = np.arange(widths.sum()) - np.repeat(_offsets(widths)[:-1], widths)
    found: np.ndarray = np.repeat(starts, widths) + inside
    return found
