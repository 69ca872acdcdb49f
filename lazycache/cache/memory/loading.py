"""A lazy tensor's selection into memory: dense, padded, nested, numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np
import torch

from lazycache.cache.files.gather import empty, words_of
from lazycache.cache.memory.lazy_base import LazyBase
from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.selection import Grid
from lazycache.codec.dtypes import of_torch
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.late_bars import late_bar

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

Side = Literal["right", "left"]
"""Where padding goes."""

PADDED_BLOCK_BYTES = 64 << 20
"""Values that are held beside a padded tensor while it is filled."""


def load(x: LazyTensor) -> torch.Tensor:
    """Read the selection; examples must have one length."""
    lead = x.lead
    if isinstance(lead, Grid) and lead.is_ragged():
        raise SelectionError(
            f"{x!r} has examples of different length, which no dense tensor holds. "
            "Use x.padded(value), x.nested(), x.rows (all rows), x[i] (one example), "
            "or a position that all have, x[:, -1]."
        )
    return x.values_of(lead.flat()).reshape(x.shape)


def padded(x: LazyTensor, value: float, side: Side) -> torch.Tensor:
    """Read the selection, examples filled up with `value`."""
    check_fill(value, x.dtype)
    check_side(side)
    lead = x.lead
    if not isinstance(lead, Grid) or not lead.is_ragged():
        return load(x)
    examples, longest = lead.shape
    here = x.to("cpu")
    out = empty((examples * longest, *x.row_shape), x.dtype).fill_(value)
    target, done = words_of(out), 0
    row_bytes = max(1, x.nbytes // max(1, lead.count))
    with late_bar(f"reading {x.site}", total=row_bytes * lead.count) as bar:
        for grid in lead.blocks(rows=max(1, PADDED_BLOCK_BYTES // row_bytes)):
            lengths = grid.lengths()
            begins = (done + np.arange(len(lengths))) * longest
            if side == "left":
                begins += longest - lengths
            values = here.values_of(grid.flat()).contiguous()
            target[ragged_arange(begins, lengths)] = words_of(values)
            done += len(lengths)
            bar.advance(values.nbytes)
    return out.view(x.shape).to(x.device)


def mask(x: LazyTensor, side: Side) -> torch.Tensor:
    """Return where a padded selection has rows: bool[examples, longest]."""
    check_side(side)
    lengths = torch.from_numpy(x.lengths)[:, None]
    longest = x.lead.shape[1]
    places = torch.arange(longest)
    there = places < lengths if side == "right" else places >= longest - lengths
    return there.to(x.device)


def check_side(side: str) -> None:
    """Refuse what is no side to fill up.

    Raises:
        SelectionError: says which there are.
    """
    if side not in get_args(Side):
        raise SelectionError(f"padding at side {side!r}: 'right' or 'left'.")


def check_fill(value: float, dtype: torch.dtype) -> None:
    """Refuse what the dtype does not hold: floats round, integers and bools are exact.

    Raises:
        SelectionError: says so.
    """
    try:
        if dtype.is_floating_point:
            fits = not math.isfinite(value) or abs(value) <= torch.finfo(dtype).max
        else:
            fits = torch.empty(1, dtype=dtype, device="cpu").fill_(value).item() == value
    except (RuntimeError, TypeError, ValueError, OverflowError) as exc:
        raise SelectionError(f"padded({value!r}): {dtype} does not hold it.") from exc
    if not fits:
        raise SelectionError(f"padded({value!r}): {dtype} does not hold it.")


def nested(x: LazyTensor) -> torch.Tensor:
    """Read the selection as a jagged nested tensor."""
    lengths = torch.from_numpy(x.lengths).to(x.device)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    values = x.values_of(x.lead.flat()).reshape(int(offsets[-1]), *x.shape[2:])
    jagged: torch.Tensor = torch.nested.nested_tensor_from_jagged(values, offsets)
    return jagged


def to_numpy(x: LazyTensor) -> np.ndarray:
    """Read the selection as an array of a dtype that holds every value."""
    return as_numpy(load(x.to("cpu")))


def as_numpy(values: torch.Tensor) -> np.ndarray:
    """Return a tensor of this machine's memory as an array of a dtype that holds every value."""
    if of_torch(values.dtype).numpy is None:
        return values.to(torch.float32).numpy()
    array: np.ndarray = values.numpy()
    return array


class Loadable(Protocol):
    """What an implicit load loads: a lazy tensor, ragged or not."""

    @property
    def shape(self) -> torch.Size:
        """Shape."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of what a load returns."""
        ...

    @property
    def is_ragged(self) -> bool:
        """Whether it is no dense tensor."""
        ...

    def load(self) -> torch.Tensor:
        """Read it."""
        ...

    def numpy(self) -> np.ndarray:
        """Read it into an array."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of what a load returns."""
        ...

    @property
    def budget_bytes(self) -> int:
        """What an implicit load may take."""
        ...


def within_budget(tensors: Sequence[Loadable], *, what: str) -> None:
    """Refuse what would load more than the budget of implicit loads.

    Raises:
        MemoryBudgetError: says the size and the alternatives.
    """
    need = sum(x.nbytes for x in tensors)
    budget = min((x.budget_bytes for x in tensors), default=0)
    if need > budget:
        names = ", ".join(map(repr, tensors))
        raise MemoryBudgetError(
            f"{what} needs {need:,} bytes in memory, {budget:,} are allowed: {names}. Select less "
            "(x[:100], x[..., :64]), stream (x.chunks(), x.mean('rows')), or say .load() yourself."
        )


def in_memory(index: Any) -> Any:
    """Return an index with what is lazy in it loaded, within the budget; ragged masks padded.

    Raises:
        MemoryBudgetError: it is larger than the budget.
    """
    if isinstance(index, tuple):
        return tuple(map(in_memory, index))
    if not isinstance(index, LazyBase):
        return index
    lazy = cast("LazyTensor", index)
    within_budget([lazy], what="an index")
    return lazy.padded() if lazy.dtype == torch.bool else lazy.load()
