"""Rows of a batch that grows are those of the finished batch, in its order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.generation.growing_rows import GrowingRows, merge_ragged, merge_rows
from lazycache.capture.values.select import check_positions, select_rows
from lazycache.errors import CaptureError

POSITIONS = st.one_of(
    st.sampled_from(["all", "first", "last", "last-2"]),
    st.integers(-3, 2),
    st.lists(st.integers(-3, 2), min_size=1, max_size=3),
    st.builds(
        slice,
        st.none() | st.integers(-4, 4),
        st.none() | st.integers(-4, 6),
        st.none() | st.sampled_from([1, 2, -1]),
    ),
    st.just(lambda ids, mask: mask & (ids % 3 != 0)),
)


@st.composite
def growths(draw):
    """A batch of left-padded prompts, the columns that follow, and how they are fed."""
    batch, prompt = draw(st.integers(1, 3)), draw(st.integers(3, 6))
    padding = [draw(st.integers(0, prompt - 3)) for _ in range(batch)]
    more = draw(st.integers(0, 5))
    tokens = [draw(st.integers(0, more)) for _ in range(batch)]
    mask = torch.ones(batch, prompt + more, dtype=torch.bool)
    for row, (pad, count) in enumerate(zip(padding, tokens, strict=True)):
        mask[row, :pad] = False
        mask[row, prompt + count :] = False
    cuts = sorted(draw(st.sets(st.integers(1, prompt))) | {prompt, *range(prompt, prompt + more)})
    starts = [0, *cuts]
    passes = list(zip(starts, [*cuts, prompt + more], strict=True))
    passes = [(start, stop) for start, stop in passes if stop > start]
    kept = draw(st.none() | st.sets(st.integers(0, batch - 1)).map(sorted))
    kept = None if kept is None else np.array(kept, dtype=np.int64)
    return mask, prompt, tokens, passes, draw(st.booleans()), kept


@given(growth=growths(), positions=POSITIONS)
def test_a_batch_that_grew_gives_the_rows_of_the_whole(growth, positions):
    """However it was cut into passes, and whether each read the beginning again or not."""
    mask, prompt, tokens, passes, again, kept = growth
    batch, length = mask.shape
    ids = torch.arange(batch * length).reshape(batch, length)
    chosen = check_positions(positions)
    growing = GrowingRows(chosen)
    parts = []
    for start, stop in passes:
        # the model does not know that an example has ended: it is fed on
        new = mask[:, start:stop] | (torch.arange(start, stop) >= prompt)
        first = 0 if again else start
        rows = growing.extend(new, ids[:, start:stop], width=stop - first, kept=kept)
        parts.append(ids[:, first:stop].reshape(-1)[rows.flat])
    whole = select_rows(mask, positions=chosen, input_ids=ids, kept=kept)
    grown = growing.finish(prompt=prompt, tokens=tokens, kept=kept)
    assert np.array_equal(grown.rows.flat, whole.flat)
    assert np.array_equal(grown.rows.position, whole.position)
    assert np.array_equal(grown.rows.lengths, whole.lengths)
    assert torch.equal(grown.input_ids, ids)
    assert torch.equal(grown.mask, mask)
    merged = merge_rows(parts, grown.places, rows=len(whole.flat))
    assert torch.equal(merged, ids.reshape(-1)[whole.flat])


@pytest.mark.parametrize(
    ("positions", "prompt", "step"),
    [
        ("all", [0, 1, 2, 3], [0]),
        ("last", [3], [0]),
        ("first", [0], []),
        (4, [], [0]),
        ([1, -2], [1, 2, 3], [0]),
        (slice(-2, None), [2, 3], [0]),
        (slice(1, 4, 2), [1, 3], []),
        (slice(None, -1), [0, 1, 2, 3], [0]),
    ],
)
def test_a_pass_keeps_no_more_than_may_become_rows(positions, prompt, step):
    """What a selection rules out already is never copied; the last of a pass may be the last."""
    growing = GrowingRows(check_positions(positions))
    first = growing.extend(torch.ones(1, 4, dtype=torch.bool), None, width=4)
    second = growing.extend(torch.ones(1, 1, dtype=torch.bool), None, width=1)
    assert first.flat.tolist() == prompt
    assert second.flat.tolist() == step


def test_an_example_that_stays_too_short_is_an_error_at_the_end():
    """An int position has to be there in the finished example, as in a forward pass."""
    growing = GrowingRows(9)
    growing.extend(torch.ones(1, 4, dtype=torch.bool), None, width=4)
    with pytest.raises(CaptureError, match="example 0 of the batch has 4 tokens"):
        growing.finish(prompt=4, tokens=None)


def test_without_all_ids_there_are_none():
    """A prompt of embeddings leaves the ids of the whole unknown."""
    growing = GrowingRows(slice(None))
    growing.extend(torch.ones(1, 2, dtype=torch.bool), None, width=2)
    growing.extend(torch.ones(1, 1, dtype=torch.bool), torch.tensor([[4]]), width=1)
    assert growing.finish(prompt=2, tokens=[1]).input_ids is None


def test_ragged_rows_go_to_their_places_with_their_widths():
    """Rows of two passes are cut at their own widths; one that is no row after all is left out."""
    parts = [torch.arange(6).float(), 100 + torch.arange(6).float(), torch.zeros(8)]
    widths = [np.array(each, dtype=np.int32) for each in ([1, 2], [3], [4])]
    places = [np.array([2, 0]), np.array([1]), np.array([-1])]
    values, width = merge_ragged(parts, widths, places, rows=3)
    assert width.tolist() == [2, 3, 1]
    assert values.tolist() == [2, 3, 4, 5, *range(100, 106), 0, 1]


def test_no_rows_at_all_are_an_empty_block():
    """A selection that takes nothing gives values of the right shape and no rows."""
    empty = np.array([], dtype=np.int64)
    assert merge_rows([torch.ones(0, 4)], [empty], rows=0).shape == (0, 4)
    values, width = merge_ragged([torch.ones(0)], [empty.astype(np.int32)], [empty], rows=0)
    assert values.shape == (0,)
    assert width.shape == (0,)
