"""Attention probabilities: rows as wide as their example has tokens, padding cut out of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lazycache.capture.values.convert import Empty, new_memory
from lazycache.errors import CaptureError

_Part = slice | torch.Tensor


def ragged_rows(
    name: str,
    values: torch.Tensor,
    *,
    queries: np.ndarray,
    keys: np.ndarray,
    empty: Empty = new_memory,
) -> tuple[torch.Tensor, np.ndarray]:
    """Return the kept queries of each example over its real keys, one row behind the other.

    A row is [heads, width], row-major; its width is the number of real keys of its example.

    Args:
        name: Of the site, for errors.
        values: [batch, heads, query, key], on its device.
        queries: bool[batch, query], the tokens that are rows.
        keys: bool[batch, key], the tokens that are no padding.
        empty: Gives the memory for the result.

    Returns:
        The values, one-dimensional on the same device, and the width of each row (int32).

    Cost: one copy on the device, straight from where the values are: in one piece if nothing is
    padding, else example by example.

    Raises:
        CaptureError: another shape, or an example of which no key is real.

    Example:
        >>> mask = np.array([[True, True, False]])
        >>> values = torch.arange(9.0).reshape(1, 1, 3, 3)
        >>> ragged_rows("pattern_0", values, queries=mask, keys=mask)
        (tensor([0., 1., 3., 4.]), array([2, 2], dtype=int32))
    """
    batch, length, seen = *queries.shape, keys.shape[1]
    heads = values.shape[1] if values.ndim > 1 else 0
    if tuple(values.shape) != (batch, heads, length, seen):
        raise CaptureError(
            f"{name} gave {list(values.shape)}; attention of {batch} examples of {length} tokens "
            f"to {seen} is [{batch}, heads, {length}, {seen}]."
        )
    kept, real = queries.sum(1), keys.sum(1)
    blind = np.flatnonzero((kept > 0) & (real == 0))
    if len(blind):
        raise CaptureError(f"{name}: example {blind[0]} of the batch has no real key to attend to.")
    widths = np.repeat(real, kept).astype(np.int32)
    if queries.all() and keys.all():
        flat = empty((batch, length, heads, seen), values.dtype, values.device)
        return flat.copy_(values.permute(0, 2, 1, 3)).view(-1), widths
    flat = empty((heads * int(widths.sum()),), values.dtype, values.device)
    at = 0
    for example in np.flatnonzero(kept).tolist():
        rows, width = int(kept[example]), int(real[example])
        part = _cut(values[example], (queries[example], keys[example]))
        target = flat[at : at + rows * heads * width]
        target.view(rows, heads, width).copy_(part.permute(1, 0, 2))
        at += len(target)
    return flat, widths


def fit_keys(values: torch.Tensor, keys: int) -> torch.Tensor:
    """Return [batch, heads, query, key] over so many keys, whatever the cache shows of them.

    A static cache has room for more behind them; one of a sliding window has forgotten the first,
    which no token attends to any more: their probability is 0.

    Example:
        >>> fit_keys(torch.ones(1, 1, 1, 2), 3)
        tensor([[[[0., 1., 1.]]]])
    """
    missing = keys - values.shape[-1]
    if missing > 0:
        return torch.nn.functional.pad(values, (missing, 0))
    return values[..., :keys]


def _cut(values: torch.Tensor, masks: Sequence[np.ndarray]) -> torch.Tensor:
    """Cut [heads, query, key] by a mask for each of the last two axes; a view where they allow."""
    for axis, mask in enumerate(masks, start=1):
        part = _part(mask, values.device)
        if isinstance(part, slice):
            values = values.narrow(axis, part.start, part.stop - part.start)
        else:
            values = values.index_select(axis, part)
    return values


def _part(mask: np.ndarray, device: torch.device) -> _Part:
    at = np.flatnonzero(mask)
    if at[-1] - at[0] + 1 == len(at):
        return slice(int(at[0]), int(at[-1]) + 1)
    return torch.from_numpy(at).to(device)
