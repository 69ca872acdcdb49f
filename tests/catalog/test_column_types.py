"""The type of a column that differs between files."""

from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog.column_types import widest

TYPES = st.sampled_from(["int64", "int32", "float64", "bool", "string", "binary", "json"])


@given(TYPES, TYPES)
def test_order_does_not_matter(a, b):
    """The union is the same whichever file came first, and a type stays itself."""
    assert widest(a, b) == widest(b, a)
    assert widest(a, a) == a


@given(TYPES, TYPES, TYPES)
def test_a_column_never_narrows(a, b, c):
    """Once a column is string or float64 only a wider type can follow."""
    width = {"bool": 0, "int32": 1, "int64": 2, "float64": 3}
    together = widest(widest(a, b), c)
    if together in width:
        assert all(width[kind] <= width[together] for kind in (a, b, c))
    elif not a == b == c:
        assert together == "string"
