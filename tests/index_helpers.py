"""Indices that torch takes, drawn at random, and what torch makes of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

ends = st.none() | st.integers(-7, 7)
slices = st.builds(slice, ends, ends, st.none() | st.sampled_from([-3, -2, -1, 1, 2, 3]))
KINDS = ("int", "slice", "slice", "slice", "array", "array", "mask")


@st.composite
def arrays(draw: st.DrawFn, n: int, shapes: tuple = ((2,), (1,), (3, 2), (), (0,))) -> Any:
    """Draw an index array of `n` entries; all shapes but the empty one broadcast."""
    shape = draw(st.sampled_from(shapes)) if n else (0,)
    count = math.prod(shape)
    found = draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count)) if count else []
    array = np.array(found, dtype=np.int64).reshape(shape)
    kind = draw(st.sampled_from([torch.from_numpy, np.asarray, np.ndarray.tolist]))
    return kind(array)


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw a mask of two entries, or of as many as there are, so that it pairs with arrays."""
    mask = torch.zeros(shape, dtype=torch.bool)
    count = min(2, mask.numel())
    places = st.integers(0, max(0, mask.numel() - 1))
    mask.view(-1)[draw(st.lists(places, min_size=count, max_size=count, unique=True))] = True
    return mask


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple:
    """Draw an index for a tensor of `shape`: integers, slices, arrays, masks, None, True, `...`."""
    parts: list = []
    rest = list(shape[: draw(st.integers(0, len(shape)))])
    while rest:
        n, kind = rest.pop(0), draw(st.sampled_from(KINDS))
        if kind == "int" and n:
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == "array":
            parts.append(draw(arrays(n)))
        elif kind == "mask":
            more = draw(st.integers(0, len(rest)))
            parts.append(draw(masks((n, *rest[:more]))))
            del rest[:more]
        else:
            parts.append(draw(slices))
    for extra in draw(st.lists(st.sampled_from([None, None, True]), max_size=2)):
        parts.insert(draw(st.integers(0, len(parts))), extra)
    if draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


def torch_index(values: torch.Tensor, index: tuple) -> torch.Tensor:
    """Index by torch, and slices with negative steps, which it lacks, before the rest."""
    parts: list = []
    dim = 0
    for part in index:
        if isinstance(part, slice) and (part.step or 1) < 0:
            order = torch.tensor(range(values.shape[dim])[part], dtype=torch.int64)
            values = values.index_select(dim, order)
            part = slice(None)  # noqa: PLW2901
        elif isinstance(part, np.ndarray) and not part.size:
            part = torch.from_numpy(part)  # noqa: PLW2901
        parts.append(part)
        dim += _dimensions(part)
    return values[tuple(parts)]


def _dimensions(part: Any) -> int:
    """Return how many dimensions a part of an index names."""
    if isinstance(part, torch.Tensor) and part.dtype == torch.bool:
        return part.ndim
    return 0 if part is None or part is True else 1
