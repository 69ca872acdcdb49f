"""lazycache.cache.selecting.examples: which rows an example has."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lazycache.cache.selecting.examples import build, ragged_arange


@dataclass
class Extents:
    run: np.ndarray
    example: np.ndarray
    start: np.ndarray
    rows: np.ndarray


def extents(parts: list[tuple[int, int, int]]) -> Extents:
    """Return extents of (run, example, rows) in storage order."""
    run, example, rows = np.array(parts, dtype=np.int64).reshape(-1, 3).T
    return Extents(run, example, np.cumsum(rows) - rows, rows)


parts_lists = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(1, 4)), max_size=8
)


@given(parts_lists, st.data())
def test_an_example_has_its_rows_in_storage_order(parts: list, data: st.DataObject) -> None:
    """Shuffled, split and partly covered examples have exactly their covered rows, in order."""
    table = extents(parts)
    total = int(table.rows.sum())
    cuts = sorted(data.draw(st.sets(st.integers(0, total), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    covered = None
    there = set(range(total))
    if data.draw(st.booleans()):
        low, high = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        covered = (low, high)
        there = {row for a, b in pairs for row in range(a, b)}
    want: dict[tuple[int, int], list[int]] = {}
    for (run, example, rows), start in zip(parts, table.start.tolist(), strict=True):
        mine = [row for row in range(start, start + rows) if row in there]
        want.setdefault((run, example), []).extend(mine)
    found = build(table, covered=covered)
    assert list(zip(found.run.tolist(), found.example.tolist(), strict=True)) == sorted(want)
    for i, key in enumerate(sorted(want)):
        logical = range(int(found.offsets[i]), int(found.offsets[i + 1]))
        assert list(found.absolute(logical)) == want[key]
        assert list(found.absolute(logical[::-1])) == want[key][::-1]
    assert list(found.stored_order()) == sorted(there)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_a_row_knows_its_example_and_position(lengths: list, data: st.DataObject) -> None:
    """Also where examples without rows are stored between others, at the begin and at the end."""
    order = data.draw(st.permutations(range(len(lengths))))
    found = build(extents([(0, e, lengths[e]) for e in order]), covered=None)
    example, position = found.places(np.arange(found.total))
    want = [(e, p) for e in order for p in range(lengths[e])]
    assert list(zip(example.tolist(), position.tolist(), strict=True)) == want


def test_captured_in_order_everything_is_a_range() -> None:
    """Nothing is as long as the rows where logical and stored order agree."""
    found = build(extents([(0, i, 3) for i in range(100)]), covered=None)
    assert found.absolute(range(30, 60)) == range(30, 60)
    assert found.stored_order() == range(300)


def test_a_million_examples_are_built_in_numpy() -> None:
    """The arrays are per run of rows; one example out of order costs no more than that."""
    ids = np.arange(1_000_000)
    ids[[5, 7]] = ids[[7, 5]]
    table = Extents(np.zeros_like(ids), ids, np.arange(1_000_000) * 2, np.full_like(ids, 2))
    found = build(table, covered=None)
    assert list(found.absolute(range(10, 12))) == [14, 15]
    assert len(found.logical) == 5


def test_ragged_ranges() -> None:
    """Ranges of different length, also empty and going down, one after the other."""
    starts, counts = np.array([5, 0, 9]), np.array([2, 0, 3])
    assert ragged_arange(starts, counts, -2).tolist() == [5, 3, 9, 7, 5]


@given(parts_lists, parts_lists)
def test_listed_examples_without_rows_keep_their_place(parts: list, others: list) -> None:
    """Example i is the i-th of all that are listed or have rows; without rows its length is 0."""
    found = build(extents(parts), covered=None, listed=extents(others))
    want = sorted({(run, example) for run, example, _ in parts + others})
    assert list(zip(found.run.tolist(), found.example.tolist(), strict=True)) == want
    lengths = dict.fromkeys(want, 0)
    for run, example, rows in parts:
        lengths[run, example] += rows
    assert found.lengths.tolist() == list(lengths.values())
    alone = build(extents(parts), covered=None)
    assert list(found.absolute(range(found.total))) == list(alone.absolute(range(alone.total)))
