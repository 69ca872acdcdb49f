"""Natural order of names."""

from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog.natural import natural_key


@given(st.lists(st.text("ab019._", max_size=6)))
def test_any_names_have_one_order(names):
    """Any names can be sorted, and the order does not depend on where they stood."""
    other_way_round = list(reversed(names))
    assert sorted(other_way_round, key=natural_key) == sorted(names, key=natural_key)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_numbers_are_compared_as_numbers(a, b):
    """Layer 2 comes before layer 10, with anything behind the number."""
    keys = [natural_key(f"mlp_{n}_out") for n in (a, b)]
    assert (keys[0] < keys[1]) == (a < b)


def test_numbers_that_read_the_same_stay_apart():
    """`a01` and `a1` are two names, in a fixed order."""
    assert sorted(["a1", "a01", "a001"], key=natural_key) == ["a001", "a01", "a1"]
