"""Sets of ids kept as intervals."""

from hypothesis import given
from hypothesis import strategies as st

from lazycache.capture.example_ids import ExampleIds


@given(st.lists(st.integers(-30, 30)), st.lists(st.integers(-30, 30)))
def test_it_behaves_as_a_set(first, second):
    """Membership, size and the next id are those of a set, whatever the order."""
    ids = ExampleIds(first)
    ids.update(second)
    expected = set(first) | set(second)
    assert {n for n in range(-40, 40) if n in ids} == expected
    assert len(ids) == len(expected)
    assert ids.after == max(expected, default=-1) + 1


def test_counted_ids_are_one_interval():
    """Many consecutive ids cost as much as one, even when they come in any order."""
    ids = ExampleIds(range(1, 1000, 2))
    assert len(ids._starts) == 500
    ids.update(range(998, -1, -2))
    assert (ids._starts, ids._stops) == ([0], [1000])


def test_other_things_are_not_in_it():
    """Only ints are ids."""
    assert "1" not in ExampleIds([1])
