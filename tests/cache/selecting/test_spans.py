"""Rows as ranges: which are there."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.cache.selecting.spans import Spans, of_rows

ROWS = st.lists(st.integers(0, 40), max_size=60)


@given(held=ROWS, cuts=ROWS, asked=ROWS)
@settings(max_examples=80)
def test_what_is_held_is_said_of_rows_in_any_order(held, cuts, asked) -> None:
    """Also where ranges follow each other without a gap, of few rows and many, some twice."""
    found = of_rows(np.array(held, dtype=np.int64))
    ends = np.unique([0, 41, *cuts])
    found &= Spans(ends[:-1], ends[1:])
    for rows in (asked, sorted(asked), asked[:1]):
        says = found.holds(np.array(rows, dtype=np.int64))
        assert says.tolist() == [row in held for row in rows]
