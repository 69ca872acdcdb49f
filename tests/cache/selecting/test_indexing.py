"""lazycache.cache.selecting.indexing: torch's indexing rules on arrays of numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from index_helpers import indices, torch_index

from lazycache.cache.selecting.indexing import index_array
from lazycache.errors import SelectionError

SHAPE = (4, 3, 5)


@settings(max_examples=300)
@given(indices(SHAPE))
def test_agrees_with_torch(index: tuple) -> None:
    """Any mix of what torch takes as an index selects what torch selects, in the same shape."""
    numbers = np.arange(60).reshape(SHAPE)
    try:
        want = torch_index(torch.from_numpy(numbers), index)
    except IndexError:
        with pytest.raises(SelectionError):
            index_array(numbers, index)
        return
    got = index_array(numbers, index)
    assert got.shape == want.shape
    assert got.tolist() == want.tolist()


def test_a_negative_step_goes_back() -> None:
    """Slices may have a negative step, which torch lacks and numpy has."""
    assert index_array(np.arange(5), slice(None, None, -2)).tolist() == [4, 2, 0]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.int64])
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
        (1.5, "no index"),
        ("a", "no index"),
        (7, "out of bounds"),
        ([0, 9], "out of bounds"),
        ([0.5], "integers or bools"),
        (slice(0, 3, 0), "step 0"),
        ((..., ...), "one ellipsis"),
        ((0, 0, 0, 0), "4 indices for 3 dimensions"),
        (np.ones(3, dtype=bool), "boolean"),
        (10**30, "out of range"),
        (-(2**63) - 1, "out of range"),
        ([2**63], "out of range"),
        (np.array([1, 2**64 - 1], dtype=np.uint64), "out of range"),
        ([[0], [0, 1]], "different length"),
        (torch.tensor([1, 0, 1, 1], dtype=torch.uint8), r"uint8 is a mask to torch.*\.bool\(\)"),
        (np.array([1, 0], dtype=np.uint8), r"uint8 is a mask"),
    ],
)
def test_what_cannot_be_applied_says_why(index: object, says: str) -> None:
    """An index that does not fit is a SelectionError, which is an IndexError, with a reason."""
    with pytest.raises(SelectionError, match=says):
        index_array(np.arange(60).reshape(SHAPE), index)


@pytest.mark.parametrize("far", [10**30, 2**63, 2**63 - 1])
def test_slices_reach_as_far_as_python_lets_them(far: int) -> None:
    """An end or step that no int64 holds selects what is there, as in a list."""
    numbers = np.arange(5)
    for index in (slice(far), slice(-far, None), slice(far, None), slice(None, None, far)):
        assert index_array(numbers, index).tolist() == list(range(5))[index]
    assert index_array(numbers, slice(None, -far, -1)).tolist() == [4, 3, 2, 1, 0]


def test_an_integer_tensor_is_an_integer() -> None:
    """A single number selects one entry, whatever it is kept in, also as uint8."""
    for number in (np.int8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)):
        assert index_array(np.arange(5), number).tolist() == 3
