"""lazycache.cache.selecting.selection: examples by positions, composed without reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.selecting.examples import build
from lazycache.cache.selecting.places import slice_each
from lazycache.cache.selecting.selection import Dense, Grid
from lazycache.errors import SelectionError

ends = st.none() | st.integers(-6, 6)
windows = st.builds(slice, ends, ends, st.none() | st.sampled_from([-2, -1, 1, 2, 3]))


class Extents:
    def __init__(self, order: list[int], lengths: list[int]) -> None:
        self.example = np.array(order, dtype=np.int64)
        self.rows = np.array([lengths[i] for i in order], dtype=np.int64)
        self.run = np.zeros_like(self.rows)
        self.start = np.cumsum(self.rows) - self.rows


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, list[list[int]]]:
    """Return a whole grid of shuffled ragged examples, and the rows of each."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(lengths))))
    extents = Extents(order, lengths)
    rows = {
        int(e): list(range(int(s), int(s + n)))
        for e, s, n in zip(extents.example, extents.start, extents.rows, strict=True)
    }
    examples = build(extents, covered=None)
    return Grid(examples, range(len(examples))), [rows[i] for i in range(len(lengths))]


@given(windows, st.lists(st.integers(0, 7), max_size=6))
def test_slices_apply_to_each_length_as_python_does(window: slice, counts: list[int]) -> None:
    """The vectorised slice agrees with Python's on every sequence."""
    first, left = slice_each(window, np.array(counts, dtype=np.int64))
    for n, at, count in zip(counts, first.tolist(), left.tolist(), strict=True):
        want = range(n)[window]
        assert count == len(want)
        assert not want or at == want[0]


@given(grids(), st.lists(windows, max_size=3), windows, st.integers(1, 6))
def test_views_of_views_hold_the_rows_python_would(grid, slices, over, size: int) -> None:
    """Slices over examples and positions compose, whatever the storage order."""
    lazy, rows = grid
    for window in slices:
        lazy = lazy.index((slice(None), window))
        rows = [r[window] for r in rows]
    lazy, rows = lazy.index((over, slice(None))), rows[over]
    flat = [row for example in rows for row in example]
    assert lazy.lengths().tolist() == [len(r) for r in rows]
    assert list(lazy.flat()) == flat
    assert list(lazy.stored()) == sorted(flat)
    assert lazy.count == len(flat)
    assert lazy.shape[0] == len(rows)
    assert not rows or lazy.shape[1] == max(map(len, rows))
    cut = list(lazy.blocks(rows=size))
    assert [row for part in cut for row in part.flat()] == flat
    assert all(part.count <= size or len(part.examples) == 1 for part in cut)
    for i, example in enumerate(rows):
        assert list(lazy.index((i, slice(None))).flat()) == example
        for p in range(-len(example), len(example)):
            assert lazy.index((i, p)).flat().tolist() == [example[p]]


@given(grids(), st.data())
def test_index_arrays_and_masks(grid, data: st.DataObject) -> None:
    """Arrays choose examples, pairs choose rows, masks choose both; positions may be negative."""
    lazy, rows = grid
    places = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=5))
    chosen = lazy.index((np.array(places, dtype=np.int64), slice(1, None)))
    assert list(chosen.flat()) == [row for i in places for row in rows[i][1:]]
    last = lazy.index((np.array(places, dtype=np.int64), np.full(len(places), -1)))
    assert last.flat().tolist() == [rows[i][-1] for i in places]
    ends = lazy.index((slice(None), np.array([0, -1])))
    assert ends.rows.tolist() == [[r[0], r[-1]] for r in rows]
    mask = np.zeros(lazy.shape, dtype=bool)
    for i, r in enumerate(rows):
        mask[i, : len(r)] = data.draw(
            st.lists(st.booleans(), min_size=len(r), max_size=len(r)), label=f"mask {i}"
        )
    want = [row for i, r in enumerate(rows) for p, row in enumerate(r) if mask[i, p]]
    assert lazy.index((mask,)).flat().tolist() == want


@given(st.integers(0, 9), st.lists(windows, max_size=3), st.data())
def test_ranges_of_rows_stay_ranges(count: int, slices: list[slice], data: st.DataObject) -> None:
    """Slices of rows are ranges: no array as long as the rows is made."""
    dense, rows = Dense(range(count)), list(range(count))
    for window in slices:
        dense, rows = dense.index((window,)), rows[window]
    assert isinstance(dense.rows, range)
    assert list(dense.rows) == rows
    if rows:
        places = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), max_size=4))
        index = np.array(places, dtype=np.int64)
        assert dense.index((index,)).flat().tolist() == [rows[i] for i in places]
        assert dense.index((places[0] if places else 0,)).shape == ()


def whole(lengths: list[int]) -> Grid:
    examples = build(Extents(list(range(len(lengths))), lengths), covered=None)
    return Grid(examples, range(len(examples)))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ((3, slice(None)), "index 3 is out of range: there are 3 examples"),
        ((slice(None), 1), "position 1 of example 1, which has 1 rows"),
        ((slice(None), np.array([0, -2])), "position -2 of example 1"),
        ((np.array([0, 5]), slice(None)), "index 5 is out of range"),
        ((np.array([0, 1]), np.array([0, 0, 0])), "two steps"),
        ((np.array([[0, 1]]), slice(None)), "one dimension"),
        ((np.ones((3, 9), dtype=bool),), "mask of shape"),
        ((np.ones((3, 3), dtype=bool),), "position 2 of example 0"),
        ((np.ones(2, dtype=bool), slice(None)), "mask of shape"),
    ],
)
def test_what_does_not_fit_names_the_example(index: tuple, says: str) -> None:
    """An index that some example does not have says which, and what to do."""
    with pytest.raises(SelectionError, match=says):
        whole([2, 1, 3]).index(index)


def test_one_example_of_many_costs_one_example() -> None:
    """Taking an example or a range of them of 10^6 makes nothing of that size."""
    examples = build(Extents(list(range(10)), [3] * 10), covered=None)
    assert Grid(examples, range(10)).index((4, slice(None))).rows == range(12, 15)
    assert Grid(examples, range(10)).index((slice(2, 5), slice(None))).flat() == range(6, 15)


def test_arranged_examples_of_one_length_are_dense() -> None:
    """Index arrays of two dimensions arrange examples that have one length."""
    lazy = whole([2, 2, 3, 2])
    dense = lazy.index((np.array([[0, 1], [3, 0]]), slice(None)))
    assert dense.rows.tolist() == [[[0, 1], [2, 3]], [[7, 8], [0, 1]]]
    assert lazy.index((np.array([[2], [0]]), slice(-1, None))).rows.tolist() == [[[6]], [[1]]]
    assert lazy.index((np.array([[2], [0]]), -1)).rows.tolist() == [[6], [1]]


def test_steps_beyond_every_row_compose() -> None:
    """Steps that multiply beyond int64 leave the one entry there is."""
    far = slice(None, None, 1 << 62)
    lazy = whole([2, 1, 3])
    for _ in range(3):
        lazy = lazy.index((slice(None), far))
    assert (list(lazy.flat()), lazy.lengths().tolist()) == ([0, 2, 3], [1, 1, 1])
    assert list(lazy.index((1, far)).flat()) == [2]
    rows = Dense(range(9)).index((far,)).index((far,)).index((slice(None, None, -1),))
    assert list(rows.rows) == [0]
    assert list(lazy.index((far, far)).index((far, far)).flat()) == [0]


@pytest.mark.parametrize("over", [slice(None), slice(None, None, 2), np.arange(40) % 3 == 0])
def test_passing_over_examples_looks_at_each_length_once(monkeypatch, over) -> None:
    """Going through examples one by one costs work in proportion to them, not to their square."""
    work = 0

    def counted(window: slice, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal work
        work += len(counts)
        return slice_each(window, counts)

    monkeypatch.setattr("lazycache.cache.selecting.selection.slice_each", counted)
    lazy = whole([3] * 40).index((slice(None), slice(1, None))).index((over, slice(None)))
    want = [[3 * i + 1, 3 * i + 2] for i in np.arange(40)[over].tolist()]
    assert [list(entry.flat()) for entry in lazy.entries()] == want
    assert [list(lazy.index((i, slice(None))).flat()) for i in range(len(want))] == want
    assert lazy.shape == (len(want), 2)
    assert not lazy.is_ragged()
    assert work <= 40
