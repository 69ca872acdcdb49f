"""lazycache.cache.indexing: torch's indexing rules on arrays of numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.indexing import index_array
from lazycache.errors import SelectionError

SHAPE = (4, 3, 5)
ends = st.none() | st.integers(-7, 7)
slices = st.builds(slice, ends, ends, st.none() | st.integers(1, 3))


@st.composite
def indices(draw: st.DrawFn) -> tuple:
    parts: list = [
        draw(st.integers(-n, n - 1) | slices) for n in SHAPE[: draw(st.integers(0, len(SHAPE)))]
    ]
    if parts and draw(st.booleans()):
        at = draw(st.integers(0, len(parts) - 1))
        size = SHAPE[at]
        parts[at] = draw(st.lists(st.integers(-size, size - 1), max_size=4))
    if draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


@given(indices())
def test_agrees_with_torch(index: tuple) -> None:
    """Any mix of integers, slices, an index array and an ellipsis selects what torch selects."""
    numbers = np.arange(60).reshape(SHAPE)
    assert index_array(numbers, index).tolist() == torch.arange(60).reshape(SHAPE)[index].tolist()


def test_a_negative_step_goes_back() -> None:
    """Slices may have a negative step, which torch lacks and numpy has."""
    assert index_array(np.arange(5), slice(None, None, -2)).tolist() == [4, 2, 0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_torch_index_arrays(dtype: torch.dtype) -> None:
    """An index array may be a torch tensor of any integer dtype."""
    assert index_array(np.arange(5), torch.tensor([3, 1], dtype=dtype)).tolist() == [3, 1]


def test_masks() -> None:
    """A mask takes the entries where it is true, over as many dimensions as it has."""
    mask = np.array([[True, False, False], [False, False, True]])
    assert index_array(np.arange(6).reshape(2, 3), mask).tolist() == [0, 5]
    assert index_array(np.arange(3), [False, True, True]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (None, "None"),
        (1.5, "no index"),
        ("a", "no index"),
        (True, "mask"),
        (7, "out of bounds"),
        ([0, 9], "out of bounds"),
        ([0.5], "integers or bools"),
        (slice(0, 3, 0), "step 0"),
        ((..., ...), "one ellipsis"),
        ((0, 0, 0, 0), "4 indices for 3 dimensions"),
        (([0, 1], slice(None), [0, 1]), "two steps"),
        (np.ones(3, dtype=bool), "boolean"),
    ],
)
def test_what_cannot_be_applied_says_why(index: object, says: str) -> None:
    """An index that does not fit is a SelectionError, which is an IndexError, with a reason."""
    with pytest.raises(SelectionError, match=says):
        index_array(np.arange(60).reshape(SHAPE), index)
