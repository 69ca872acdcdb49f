"""A ragged selection into memory: example by example, and these into one dense tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, empty
from lazycache.cache.files.ragged_rows import Block, Wanted
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.selecting.ragged_selection import RaggedSelection, batches
from lazycache.codec.dtypes import by_name
from lazycache.errors import MemoryBudgetError
from lazycache.late_bars import late_bar

BATCH_BYTES = 64 << 20
"""Values of several examples that are read at once."""

BLOCK_ROWS = 1 << 20
"""Rows whose widths are looked at at once."""


def extents(source: Source, selection: RaggedSelection) -> np.ndarray:
    """Return the keys of each selected example, its widest row's: int64[n]. Reads widths.

    Cost: a block of rows is looked at at a time, however many there are, or the log says there are.
    """
    groups, numbers = selection.groups, selection.numbers
    lengths, found = groups.lengths(numbers), np.zeros(len(numbers), dtype=np.int64)
    for part in batches(lengths, most=BLOCK_ROWS):
        for first in range(0, int(lengths[part].max()), BLOCK_ROWS):
            rows = groups.rows(numbers[part], first=first, most=BLOCK_ROWS)
            counts = np.minimum(lengths[part] - first, BLOCK_ROWS)
            owner = np.repeat(np.arange(len(counts)), counts)
            np.maximum.at(found[part], owner, source.reader.widths(source.spec.name, rows))
    return found


def each(
    source: Source,
    selection: RaggedSelection,
    sizes: np.ndarray,
    conversions: Sequence[torch.dtype],
) -> Iterator[torch.Tensor]:
    """Yield [heads, queries, keys] of each example, converted; `sizes` are `extents`.

    Cost: what is wanted of examples of up to 64 MB, or of one, is in memory at a time.

    Raises:
        SelectionError: an example does not have a key that is asked for.
    """
    selection.check(selection.keys, sizes, what="key")
    itemsize = by_name(source.spec.dtype).itemsize
    # of a store in the distance, whole rows may be fetched for a head or a key of each
    selected = selection.keys.counts(sizes) * selection.heads.size
    values = np.maximum(selected, sizes * source.spec.shape[0])
    nbytes = selection.lengths * values * itemsize
    with late_bar(f"reading {source.spec.name}", total=int(nbytes.sum())) as bar:
        for part in batches(nbytes, most=BATCH_BYTES):
            for values in _batch(source, selection, range(part.start, part.stop), sizes):
                yield reduce(torch.Tensor.to, conversions, values)
            bar.advance(int(nbytes[part].sum()))


def _batch(
    source: Source, selection: RaggedSelection, places: range, sizes: np.ndarray
) -> Iterator[torch.Tensor]:
    dtype, heads = by_name(source.spec.dtype), selection.heads.reshape(-1)
    rows = [selection.rows_of(place) for place in places]
    keys = [selection.keys.of(int(sizes[place])) for place in places]
    filled = [
        _zeros((len(heads), len(r), len(k)), dtype.itemsize)
        for r, k in zip(rows, keys, strict=True)
    ]
    wanted = _wanted(rows, keys, heads)
    begins = np.cumsum([0, *map(len, rows)])
    for block in source.reader.ragged(source.spec.name, wanted) if len(heads) else ():
        owner = int(wanted.owner[block.at])
        _place(filled[owner], block, query=block.at - int(begins[owner]), keys=keys[owner])
    for words in filled:
        yield as_tensor(words.reshape(-1).view(np.uint8), dtype.torch, words.shape)


def _wanted(rows: list[np.ndarray], keys: list[Rows], heads: np.ndarray) -> Wanted:
    ends = np.array([_ends(k) for k in keys], dtype=np.int64)
    return Wanted(
        rows=np.concatenate(rows),
        owner=np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        heads=heads,
        low=ends[:, 0],
        high=ends[:, 1],
    )


def _ends(keys: Rows) -> tuple[int, int]:
    """Return the first key and the key after the last; of no keys nothing."""
    if not len(keys):
        return 0, 0
    if isinstance(keys, range):
        return min(keys[0], keys[-1]), max(keys[0], keys[-1]) + 1
    return int(keys.min()), int(keys.max()) + 1


def _place(out: np.ndarray, block: Block, *, query: int, keys: Rows) -> None:
    """Copy a block to [heads, queries, keys]; keys that its rows do not have stay 0."""
    values = block.values.transpose(1, 0, 2)
    target = out[block.heads, query : query + values.shape[1]]
    if isinstance(keys, range) and keys.step == 1:
        target[..., : values.shape[2]] = values
        return
    number = as_array(keys) - block.low
    there = number < values.shape[2]
    target[..., there] = values[..., number[there]]


def _zeros(shape: tuple[int, ...], itemsize: int) -> np.ndarray:
    try:
        # fresh pages are zeros already: this costs nothing
        return np.zeros(shape, dtype=f"u{itemsize}")
    except MemoryError as exc:
        raise MemoryBudgetError(
            f"a tensor of shape {shape} of {itemsize} bytes each: the system does not have the "
            "memory. Read fewer heads, queries or examples at a time."
        ) from exc


def stacked(
    source: Source,
    selection: RaggedSelection,
    sizes: np.ndarray,
    conversions: Sequence[torch.dtype],
    *,
    fill: float = 0,
    left: bool = False,
) -> torch.Tensor:
    """Read several examples into [examples, heads, queries, keys], `fill` beyond their ends.

    Or before their begins, if `left`.

    Cost: this tensor, and the values of a batch of examples at a time.
    """
    counts = selection.keys.counts(sizes)
    most = (int(selection.lengths.max(initial=0)), int(counts.max(initial=0)))
    out = empty((len(selection.numbers), selection.heads.size, *most), conversions[-1])
    if (selection.lengths < most[0]).any() or (counts < most[1]).any():
        out.fill_(fill)
    found = each(source, selection, sizes, conversions)
    for target, values in zip(out, found, strict=True):
        first = [most[d] - values.shape[d + 1] if left else 0 for d in (0, 1)]
        target[:, first[0] :, first[1] :][:, : values.shape[1], : values.shape[2]] = values
    return out
