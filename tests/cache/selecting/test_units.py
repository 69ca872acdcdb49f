"""lazycache.cache.selecting.units: units of a row as windows or places of its elements."""

import numpy as np
import pytest

from lazycache.cache.selecting.units import as_map, of_map, select


def elements(units) -> list[int]:  # the elements that Units stands for, computed the long way
    if units.positions is not None:
        return units.positions.reshape(-1).tolist()
    return [
        units.start + sum(i * s for i, s in zip(index, units.strides, strict=True))
        for index in np.ndindex(*units.shape)
    ]


@pytest.mark.parametrize(
    "index",
    [
        (),
        (1,),
        (1, 2, 3),
        (slice(1, None),),
        (slice(None), 1),
        (Ellipsis, slice(1, 3)),
        (slice(None), slice(None, None, 2), -1),
        ([1, 0],),
        (0, [2, 0, 0]),
        (Ellipsis, slice(None, None, -1)),
        (slice(0, 0),),
        (None, 1, slice(None), None),
        ([0, 1], slice(None), [[1, 3]]),
        (0, 1, [[0, 1], [1, 2]]),
    ],
)
def test_holds_what_the_index_names(index: tuple) -> None:
    """The elements and the shape are those of the same index on an array."""
    want = np.arange(24).reshape(2, 3, 4)[index]
    units = select((2, 3, 4), index)
    assert (units.shape, elements(units)) == (want.shape, want.reshape(-1).tolist())
    again = of_map((2, 3, 4), as_map((2, 3, 4), units))
    assert (again.shape, again.strides, elements(again)) == (
        units.shape,
        units.strides,
        elements(units),
    )


def test_consecutive_units_are_one_run() -> None:
    """A head of [heads, d_head] is one byte range of each row; one unit of each head is not."""
    assert select((4, 8), (2,)).is_run
    assert not select((4, 8), (slice(None), 2)).is_run


def test_span_is_the_smallest_range_that_holds_all() -> None:
    """`span` bounds what has to be fetched of a row."""
    assert select((4, 8), (slice(1, 3), 2)).span == (10, 19)
    assert select((8,), ([5, 2],)).span == (2, 6)


def test_lists_that_are_a_window_are_read_as_one() -> None:
    """Evenly spaced units are a window, however they were named; units that come twice are not."""
    assert select((8,), ([2, 3, 4],)).is_run
    assert select((2, 8), (slice(None), [1, 4, 7])).strides == (8, 3)
    assert select((8,), (None, slice(2, 5), None)).is_run
    for index in ([1, 1], [[0, 1], [1, 2]], [3, 1], [0, 1, 3]):
        assert select((8,), (index,)).strides is None
