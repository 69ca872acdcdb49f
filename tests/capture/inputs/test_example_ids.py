"""Sets of ids kept as intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.inputs import example_ids
from lazycache.capture.inputs.example_ids import ExampleIds


@given(st.lists(st.integers(-30, 30)), st.lists(st.integers(-30, 30)))
def test_it_behaves_as_a_set(first, second):
    """Membership, size and the next id are those of a set, whatever the order."""
    ids = ExampleIds(first)
    ids.update(second)
    expected = set(first) | set(second)
    assert {n for n in range(-40, 40) if n in ids} == expected
    assert len(ids) == len(expected)
    assert ids.after == max(expected, default=-1) + 1


@given(
    st.lists(st.lists(st.integers(-(2**62), 2**63 - 2) | st.integers(0, 40), max_size=20)),
    st.integers(1, 8),
)
def test_it_behaves_as_a_set_at_every_size(parts, limit):
    """Also where the ids that wait are sorted in at every few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example_ids, "_LOOSE", limit)
        ids, expected = ExampleIds(), set()
        for part in parts:
            ids.update(part)
            expected |= set(part)
            assert len(ids) == len(expected)
            assert ids.after == max(expected, default=-1) + 1
        assert all(n in ids for n in expected)
        assert {n for n in range(-1, 42) if n in ids} == {n for n in expected if -1 <= n < 42}


def test_counted_ids_are_one_interval():
    """Many consecutive ids cost as much as one."""
    ids = ExampleIds()
    for first in range(0, 100_000, 32):
        ids.update(range(first, first + 32))
    assert (ids._starts, ids._stops, ids._loose) == ([0], [100_000], set())


def test_ids_are_one_interval_in_the_end_whatever_their_order():
    """Gaps that are filled leave nothing behind but the few ids that wait."""
    ids = ExampleIds(range(1, 10_000, 2))
    assert len(ids._starts) == 5000
    ids.update(range(9998, -1, -2))
    assert len(ids) == 10_000
    ids.update([20_000])
    assert (ids._starts, ids._stops, ids._loose) == ([0, 20_000], [10_000, 20_001], set())


def test_shuffled_ids_cost_no_quadratic_time(monkeypatch):
    """Ids in random order are moved a bounded number of times each."""
    moved, settle = [], ExampleIds._settle

    def counting(self):
        moved.append(len(self._loose) + len(self._starts))
        settle(self)

    monkeypatch.setattr(ExampleIds, "_settle", counting)
    shuffled = np.random.default_rng(0).permutation(100_000)
    for spread in (1, 7919):  # dense, and all of them apart
        given_ids = (shuffled * spread).tolist()
        ids, moved[:] = ExampleIds(), []
        ids.update(given_ids)
        assert sum(moved) <= 5 * len(given_ids)
        assert len(moved) < 200
        assert len(ids) == len(given_ids)
        moved.clear()
        assert len(ExampleIds(given_ids)) == len(given_ids)
        assert moved == [len(given_ids)]


def test_other_things_are_not_in_it():
    """Only ints are ids."""
    assert "1" not in ExampleIds([1])
