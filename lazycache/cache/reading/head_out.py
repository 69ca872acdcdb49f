"""What each head adds to the residual stream: its `z` times its block of the output projection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.files.gather import words_of
from lazycache.cache.selecting.units import Units, all_units, places_of


@dataclass(frozen=True, slots=True)
class Needed:
    """The heads and columns of [heads, d_model] that a selection of units needs."""

    heads: np.ndarray | None
    """int64[h], ascending; None for all."""
    columns: np.ndarray | None
    """int64[c], ascending; None for all."""
    size: tuple[int, int]
    """How many of each."""
    picked: np.ndarray | None
    """int64[units]: places in [h, c]; None where the units are these, in order."""


def needed(shape: tuple[int, ...], units: Units) -> Needed:
    """Return what has to be computed for units of rows of `shape`.

    Example:
        >>> from lazycache.cache.selecting.units import select
        >>> needed((2, 8), select((2, 8), (1, slice(0, 3)))).size
        (1, 3)
    """
    heads, columns = shape
    if units is all_units(shape):
        return Needed(None, None, (heads, columns), None)
    head, column = np.divmod(places_of(units), columns)
    h, at_head = np.unique(head, return_inverse=True)
    c, at_column = np.unique(column, return_inverse=True)
    places = at_head * len(c) + at_column
    in_order = len(places) == len(h) * len(c) and bool((np.diff(places) == 1).all())
    return Needed(
        heads=None if len(h) == heads else h,
        columns=None if len(c) == columns else c,
        size=(len(h), len(c)),
        picked=None if in_order else places,
    )


def project(z: torch.Tensor, matrix: torch.Tensor, need: Needed) -> np.ndarray:
    """Return the units of rows as unsigned words: [rows, units].

    Args:
        z: [rows, heads that are needed, d_head], as stored.
        matrix: [heads, d_head, d_model] in the dtype to compute in.
        need: What to compute.

    Cost: rows x heads x columns values in that dtype, and as many in the dtype of `z`.
    """
    chosen = matrix if need.heads is None else matrix[torch.from_numpy(need.heads)]
    if need.columns is not None:
        chosen = chosen[..., torch.from_numpy(need.columns)]
    # not in the dtype of an autocast that the caller is in
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        wide = torch.einsum("rhd,hdm->rhm", z.to(matrix.dtype), chosen)
        words = words_of(wide.to(z.dtype).contiguous())
    flat = words.reshape(len(words), -1)
    return flat if need.picked is None else flat[:, need.picked]
