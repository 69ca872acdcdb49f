"""From what a caller asks for to a `Loader`: checks it all before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lazycache.cache.reading.reader import Reader
from lazycache.cache.stacks.stack import LazyStack
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import SelectionError, nearest
from lazycache.feed import identity, ranks
from lazycache.feed.batches import Feed
from lazycache.feed.finishing import Finish
from lazycache.feed.loader import Loader
from lazycache.feed.order import BLOCKS, ROWS, STORED, Order
from lazycache.feed.source import RowSource, of_tensors

BLOCK_BYTES = 64 << 10
"""Bytes of consecutive rows of a site that stay together until they are in a window."""

WINDOW_BYTES = 256 << 20
"""Bytes of all sites that are permuted row by row."""

PREFETCH_BYTES = 64 << 20
"""Bytes of batches that are read before they are asked for."""

_MOST_WINDOW_ROWS = 1 << 22
"""Rows of a window at most: of narrow rows, what is known of each takes more than its values."""

_LEAST_BLOCKS = 64
"""So many each rank has at least, of a small dataset too."""

_KINDS = {True: BLOCKS, False: STORED, "rows": ROWS}


def loader(
    x: object,
    batch_size: int,
    *,
    shuffle: bool | str = True,
    seed: int = 0,
    columns: Sequence[str] | Mapping[str, str] = (),
    where: str | None = None,
    norm: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    drop_last: bool = False,
    block_bytes: int = BLOCK_BYTES,
    window_bytes: int = WINDOW_BYTES,
    prefetch_bytes: int = PREFETCH_BYTES,
) -> Loader:
    """Return a loader of a lazy tensor, a stack, or several tensors by name.

    See `LazyTensor.loader`.
    """
    kind = _kind(shuffle)
    for name, size in (
        ("batch_size", batch_size),
        ("block_bytes", block_bytes),
        ("window_bytes", window_bytes),
    ):
        _check_size(name, size, least=1)
    _check_size("prefetch_bytes", prefetch_bytes, least=0)
    mine = ranks.of_process(rank, world_size)
    tensors = _tensors(x, where)
    source = of_tensors(tensors)
    if not source.rows:
        raise SelectionError(f"nothing is selected of {x!r}: there is no row to train on.")
    names = _names(x, tensors)
    asked_columns = _columns(columns, names)
    norms, shown_norm = _norms(norm, source, stacked=isinstance(x, LazyStack))
    sizes = (block_bytes, window_bytes)
    order = _order(source, kind, sizes, seed=seed, world_size=mine.world_size)
    feed = Feed(
        source=source,
        order=order,
        rank=mine,
        columns=_column_reader(source, tuple(asked_columns.values())),
        finish=Finish(norms, dtype, _device(device, source), isinstance(x, LazyStack)),
        batch_rows=batch_size,
        prefetch_bytes=prefetch_bytes,
    )
    return Loader(
        feed,
        asked={
            **source.identity(),
            "order": kind,
            "seed": order.seed,
            "block_rows": order.block_rows if kind == BLOCKS else None,
            # of the other orders, windows are only what is read at once
            "window_rows": order.window_rows if kind == BLOCKS else None,
            "keys": list(names),
            "batch_size": batch_size,
            "world_size": mine.world_size,
            "drop_last": bool(drop_last),
            "columns": asked_columns,
            "norm": identity.of_norm(norm),
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        },
        names=names,
        column_names=asked_columns,
        norm=shown_norm,
        drop_last=bool(drop_last),
    )


def _kind(shuffle: object) -> str:
    kind = _KINDS.get(shuffle) if isinstance(shuffle, (bool, str)) else None
    if kind is None:
        raise SelectionError(
            f"shuffle is True (blocks, then rows in windows), 'rows' or False, not {shuffle!r}."
        )
    return kind


def _check_size(name: str, size: object, *, least: int) -> None:
    if not isinstance(size, int) or isinstance(size, bool) or size < least:
        raise SelectionError(f"{name} is a whole number of at least {least}, not {size!r}.")


def _tensors(x: object, where: str | None) -> dict[str, LazyTensor]:
    """Return the tensors that are fed, by name.

    Raises:
        SelectionError: something is no tensor of rows of one shape.
    """
    if isinstance(x, LazyStack):
        found: dict[str, object] = dict(zip(x.names, x.members, strict=True))
    elif isinstance(x, Mapping):
        found = dict(x)
    else:
        found = {x.site if isinstance(x, (LazyTensor, RaggedTensor)) else "x": x}
    tensors = {name: _rows_of(name, value) for name, value in found.items()}
    if not tensors:
        raise SelectionError("there is no site to feed: name some, cache.loader('resid_out_*').")
    if where is None:
        return tensors
    return {name: value.where(where) for name, value in tensors.items()}


def _rows_of(name: str, value: object) -> LazyTensor:
    if isinstance(value, RaggedTensor):
        raise SelectionError(
            f"rows of {name!r} differ in width, as attention patterns do, and make no batches: "
            "feed what they are computed to, x.map(...), or a site of one shape."
        )
    if not isinstance(value, LazyTensor):
        raise SelectionError(f"{name!r} is a {type(value).__name__}, no lazy tensor of rows.")
    if not value.lead_ndim or not value.lead.ndim:
        raise SelectionError(f"{value!r} is one row: a loader hands out rows of many.")
    return value


def _names(x: object, tensors: Mapping[str, LazyTensor]) -> tuple[str, ...]:
    """Return the keys of a batch that is a dict."""
    if isinstance(x, LazyStack):
        return ("stack",)
    if isinstance(x, LazyTensor) and not isinstance(x.source.reader, Reader):
        return ("values",)  # the name of what is computed is a formula
    return tuple(tensors)


def _columns(columns: object, names: Sequence[str]) -> dict[str, str]:
    """Return what is asked of the tables, by the name it has in a batch."""
    if isinstance(columns, str) or not isinstance(columns, (Sequence, Mapping)):
        raise SelectionError(
            f"columns are names, ['token', 'label'], or SQL by name, not {columns!r}."
        )
    asked = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    taken = sorted(set(asked) & set(names))
    if taken:
        raise SelectionError(f"{taken[0]!r} is a key of the batch already: name the column else.")
    return asked


def _column_reader(source: RowSource, names: tuple[str, ...]) -> Any:
    if not names:
        return None
    from lazycache.feed.columns import ColumnReader

    return ColumnReader(source.first, names, numbers=source.numbers[0])


def _norms(
    norm: Any, source: RowSource, *, stacked: bool
) -> tuple[tuple[Callable[[torch.Tensor], torch.Tensor] | None, ...], Any]:
    """Return a norm for each site, and what is shown of them."""
    if norm is None:
        return (None,) * len(source.sites), None
    from lazycache.feed.norms import Norm, norm_of

    if isinstance(norm, Mapping):
        for name in norm:
            if name not in source.sites:
                there = nearest(str(name), source.sites)
                raise SelectionError(f"norm names {name!r}, which is not fed. {there}")
        found = {name: norm_of(norm.get(name), x) for name, x in source.sites.items()}
    else:
        found = {name: norm_of(norm, x) for name, x in source.sites.items()}
    norms = tuple(found.values())
    known = [one for one in norms if isinstance(one, Norm)]
    if stacked and len(known) == len(norms):
        return norms, Norm.stacked(known, row_ndim=len(source.first.row_shape))
    of_all = len(norms) == 1 or (stacked and len(set(map(id, norms))) == 1)
    return norms, norms[0] if of_all else found


def _order(
    source: RowSource, kind: str, sizes: tuple[int, int], *, seed: int, world_size: int
) -> Order:
    """Return the order in rows. It depends on stored sizes, never on where the bytes are."""
    block_bytes, window_bytes = sizes
    block = max(1, min(_MOST_WINDOW_ROWS, block_bytes // source.widest_row))
    # few blocks would give a rank the same rows in every epoch
    block = min(block, max(1, source.rows // (_LEAST_BLOCKS * world_size)))
    window = max(1, min(_MOST_WINDOW_ROWS, window_bytes // source.row_bytes))
    # a window has whole blocks
    window = max(1, window // block) * block
    return Order(source.rows, kind, block, window, ranks.whole_number("seed", seed))


def _device(device: torch.device | str | None, source: RowSource) -> torch.device | None:
    if device is not None:
        found = torch.device(device)
        if found == torch.device("cuda"):
            # which one is current is a matter of the thread, and the feed has its own
            return torch.device("cuda", torch.cuda.current_device())
        return found
    return None if source.first.device.type == "cpu" else source.first.device
