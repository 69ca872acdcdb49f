"""Which positions become rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.values.select import check_positions, select_rows, take_rows
from lazycache.errors import CaptureError

MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 0, 1, 0, 0]]) == 1  # left, right, packed


def _select(positions, mask=MASK, input_ids=None):
    return select_rows(mask, positions=check_positions(positions), input_ids=input_ids)


@pytest.mark.parametrize(
    ("positions", "example", "position", "flat"),
    [
        ("all", [0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2, 3, 0, 1], None),
        ("first", [0, 1, 2], [0, 0, 0], [2, 5, 10]),
        ("last", [0, 1, 2], [2, 3, 1], [4, 8, 12]),
        ("last-1", [0, 1, 2], [2, 3, 1], [4, 8, 12]),
        ("last-2", [0, 1, 2], [1, 2, 0], [3, 7, 10]),
        (-2, [0, 1, 2], [1, 2, 0], [3, 7, 10]),
        (np.int64(1), [0, 1, 2], [1, 1, 1], [3, 6, 12]),
        (slice(2, None), [0, 1, 1], [2, 2, 3], [4, 7, 8]),
        (slice(None, None, 2), [0, 0, 1, 1, 2], [0, 2, 0, 2, 0], None),
        (slice(9, 12), [], [], []),
        ([1, 0, 1], [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], None),
        ([-1, 0], [0, 0, 1, 1, 2, 2], [0, 2, 0, 3, 0, 1], None),
        (lambda _ids, mask: torch.ones_like(mask), [0] * 3 + [1] * 4 + [2] * 2, None, None),
    ],
)
def test_selections_count_real_tokens(positions, example, position, flat):
    """Positions are counted over real tokens wherever the padding is; rows come in order."""
    rows = _select(positions)
    assert rows.example.tolist() == example
    assert rows.lengths.tolist() == [3, 4, 2]
    if position is not None:
        assert rows.position.tolist() == position
    if flat is not None:
        assert rows.flat.tolist() == flat
    assert rows.position.dtype == np.int32
    assert rows.example.dtype == rows.flat.dtype == np.int64


@given(
    st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4),
    st.slices(6),
)
def test_slices_are_python_slices_of_the_real_tokens(mask, chosen):
    """A slice takes from each example what it takes from the list of its real tokens."""
    rows = _select(chosen, torch.tensor(mask))
    expected = [
        (row, place)
        for row, flags in enumerate(mask)
        for place in sorted(np.flatnonzero(flags)[chosen].tolist())
    ]
    assert [divmod(index, 4) for index in rows.flat.tolist()] == expected


def test_a_function_sees_ids_and_mask_and_cannot_keep_padding():
    """A callable gets the token ids and the mask; padding stays out whatever it answers."""
    ids = torch.arange(15).reshape(3, 5)

    def even(input_ids, mask):
        mask |= True  # a scribble on the argument must not make padding real
        return input_ids % 2 == 0

    def scribble(input_ids, mask):
        input_ids.zero_()
        return mask

    _select(scribble, input_ids=ids)
    assert ids.flatten().tolist() == list(range(15))
    assert _select(even, input_ids=ids).flat.tolist() == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize(
    "positions",
    [
        "some",
        "last-0",
        "",
        1.5,
        True,
        [],
        [1, "a"],
        [True],
        None,
        object(),
        slice("a"),
        slice(1.5, None),
        slice(None, None, 0),
    ],
)
def test_what_is_no_selection_is_refused_early(positions):
    """A bad selection is an error before any forward pass."""
    with pytest.raises(CaptureError, match="is no selection"):
        check_positions(positions)


@pytest.mark.parametrize("positions", [3, -3, [0, 2]])
def test_examples_that_are_too_short_are_named(positions):
    """An int or list that an example cannot give is an error, as an index of a list is."""
    with pytest.raises(CaptureError, match="example 2 of the batch has 2 tokens"):
        _select(positions, MASK[[1, 1, 2]])


@pytest.mark.parametrize("answer", [None, torch.zeros(3, 5), torch.zeros(2, 5).bool()])
def test_a_function_that_gives_no_mask_is_an_error(answer):
    """The answer of a callable must be a mask of the batch."""
    with pytest.raises(CaptureError, match=r"bool tensor \(3, 5\) is needed"):
        _select(lambda _ids, _mask: answer)


@pytest.mark.parametrize("positions", ["all", slice(0, 2)])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 4), (3, 5, 2, 2), (15, 4), (15,)])
def test_rows_are_gathered_from_any_layout(positions, shape):
    """Rows come out in order from batched, flattened and transposed tensors."""
    values = torch.arange(60).reshape(15, 4)
    values = values[:, 0] if shape in {(3, 5), (15,)} else values
    rows = _select(positions)
    flat = torch.from_numpy(rows.flat)
    expected = values[flat].reshape(len(flat), *shape[(1 if shape[0] == 15 else 2) :])
    batched = values.reshape(shape)
    assert torch.equal(take_rows(batched, rows, flat=flat), expected)
    strided = batched.transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.equal(take_rows(strided, rows, flat=flat), expected)


def test_a_whole_batch_is_not_copied():
    """Without padding nothing is gathered."""
    rows = _select("all", torch.ones(2, 3).bool())
    values = torch.zeros(2, 3, 4)
    assert rows.is_whole
    taken = take_rows(values, rows, flat=torch.from_numpy(rows.flat))
    assert taken.data_ptr() == values.data_ptr()
