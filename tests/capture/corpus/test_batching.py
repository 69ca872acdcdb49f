"""Items of a corpus in batches: each once, of like length, within the limits."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.corpus.batching import CHECKSUM, Limits, pending, plan_batches
from lazycache.capture.corpus.items import Item
from lazycache.errors import CaptureError


def _item(example, length, **columns):
    return Item(example, np.arange(3, 3 + length, dtype=np.int64), columns)


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 5), st.integers(1, 12))
def test_batches_hold_each_item_once_unchanged(lengths, batch_size, window):
    """Every item is in one batch, whole, with its padding masked; windows keep corpus order."""
    items = [_item(n, length) for n, length in enumerate(lengths)]
    batches = list(plan_batches(items, Limits(batch_size, None, window)))
    found = {}
    for batch in batches:
        assert len(batch.examples) <= batch_size
        assert batch.input_ids.shape[1] == max(lengths[n] for n in batch.examples)
        for row, example in enumerate(batch.examples):
            found[example] = batch.input_ids[row][batch.attention_mask[row] == 1].tolist()
            assert batch.attention_mask[row, 0] == 1
    assert found == {item.example: item.input_ids.tolist() for item in items}
    assert [n // window for batch in batches for n in batch.examples] == [
        n // window for n in range(len(items))
    ]
    assert sum(batch.tokens for batch in batches) == sum(lengths)


def test_the_longest_of_a_window_come_first():
    """Like lengths go together, the longest first, and equal ones in corpus order."""
    items = [_item(0, 2), _item(1, 5), _item(2, 2), _item(3, 5)]
    batches = list(plan_batches(items, Limits(2, None, 4)))
    assert [batch.examples for batch in batches] == [[1, 3], [0, 2]]


def test_missing_columns_are_none():
    """An item without a column that its neighbour has gets None there."""
    (batch,) = plan_batches([_item(0, 1, a=1), _item(1, 1, b="x")], Limits(2, None, 2))
    assert batch.columns.pop(CHECKSUM)
    assert batch.columns == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ((0, None, 1), "batch_size=0"),
        ((True, None, 1), "batch_size=True"),
        ((1, 0, 1), "batch_tokens=0"),
        ((1, 2.5, 1), "batch_tokens=2.5"),
        ((1, None, 0), "window=0"),
    ],
)
def test_sizes_below_one_are_refused(sizes, name):
    """A batch or window of nothing would run for ever or not at all."""
    with pytest.raises(CaptureError, match=f"{name}: a whole number, at least 1"):
        Limits(*sizes)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 30))
def test_a_batch_stays_in_its_budget_of_tokens(lengths, most, budget):
    """Examples times the longest is within the budget, and no batch could take its neighbour."""
    items = [_item(n, length) for n, length in enumerate(lengths)]
    batches = list(plan_batches(items, Limits(most, budget, 100)))
    for batch in batches:
        padded = batch.input_ids.numel()
        assert padded <= budget or len(batch.examples) == 1
        assert len(batch.examples) <= most
    for one, other in pairwise(batches):
        longest = one.input_ids.shape[1]
        full = len(one.examples) == most
        assert full or longest * (len(one.examples) + 1) > budget, (one, other)
    assert sorted(n for batch in batches for n in batch.examples) == list(range(len(lengths)))


def test_what_was_sorted_before_keeps_its_order():
    """In storage order the same limits make the same batches."""
    items = [_item(n, 1 + n * 5 % 7) for n in range(30)]
    limits = Limits(4, 16, 10)
    batches = list(plan_batches(items, limits))
    by_id = {item.example: item for item in items}
    stored = [by_id[n] for batch in batches for n in batch.examples]
    again = plan_batches(stored, limits, in_order=True)
    assert [batch.examples for batch in again] == [batch.examples for batch in batches]


def test_images_of_different_sizes_do_not_share_a_batch():
    """What cannot be stacked is named, with what to do."""
    items = [Item(n, None, {}, pixels=torch.ones(1, n + 1, 2)) for n in range(2)]
    with pytest.raises(CaptureError, match=r"\(1, 1, 2\), \(1, 2, 2\).*batch_size=1"):
        list(plan_batches(items, Limits(2, None, 2)))
    assert len(list(plan_batches(items, Limits(1, None, 2)))) == 2


def test_what_is_done_is_left_out_and_the_rest_keeps_its_company():
    """Whole batches that are done vanish, others run with what is left of them."""
    items = [_item(n, 4) for n in range(6)]
    batches = list(plan_batches(items, Limits(2, None, 6)))
    checksums = {n: items[n].checksum for n in (0, 1, 2)}
    left = list(pending(batches, done=checksums))
    assert [batch.examples for batch in left] == [[3], [4, 5]]
    assert left[0].input_ids.shape == batches[1].input_ids[1:].shape
    assert left[0].columns[CHECKSUM] == [items[3].checksum]


def test_an_example_that_changed_is_noticed():
    """A done example with other tokens is an error; one without a checksum is believed."""
    batches = list(plan_batches([_item(0, 4)], Limits(1, None, 1)))
    with pytest.raises(CaptureError, match="Example 0"):
        list(pending(batches, done={0: 1}))
    assert list(pending(batches, done={0: None})) == []
