"""Rows that are furthest along a direction, found as those of `similar` are: by bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.aggregates.row_stream import by_rows
from lazycache.query.finding.nearest import nearest
from lazycache.query.finding.score_bounds import adds_bfloat16

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

SHARE = 64
"""Of fewer rows for each hit, working all of them out is as fast as looking for some."""


def furthest(
    x: LazyTensor, direction: torch.Tensor, k: int, *, largest: bool
) -> tuple[torch.Tensor, np.ndarray] | None:
    """Return the k greatest or smallest dot products and their rows; None where it is not faster.

    Of bfloat16 on a processor that multiplies it. Ranked in float64, of equal ones the lower row
    first; without NaN. `direction` is [units], finite; values come back in its dtype.
    """
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or not adds_bfloat16(len(direction)):
        return None
    if k * SHARE > by_rows(x).rows:
        return None
    sign = 1.0 if largest else -1.0
    values, rows = nearest(x, sign * direction.double()[None], k, "dot").of(0)
    # adding zero: a product of 0 is not -0
    return torch.from_numpy(sign * values + 0.0).to(direction.dtype), rows
