"""Scattered rows of memory, gathered in one copy whatever they belong to."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lazycache.cache.files.gather import gather_rows
from lazycache.cache.selecting.units import select


@pytest.mark.parametrize("width", [1, 3, 8, 96, 768])
def test_rows_of_several_maps_come_in_the_order_asked_for(width):
    """Rows at any addresses, in small gathers and those that two threads share, are numpy's."""
    generator = np.random.default_rng(width)
    maps = [generator.integers(0, 1 << 16, (5000, width)).astype(np.uint16) for _ in range(2)]
    # aligned as chunks are: the rows of all maps at multiples of one slot
    memory = np.zeros((2, 5000 * width * 2 + 64), np.uint8)
    starts = [-int(part.ctypes.data) % 64 for part in memory]
    for part, start, values in zip(memory, starts, maps, strict=True):
        part[start : start + values.nbytes] = values.reshape(-1).view(np.uint8)
    for count in (1, 7, 12_000):
        owner = generator.integers(0, 2, count)
        rows = generator.integers(0, 5000, count)
        bases = np.array([part.ctypes.data + s for part, s in zip(memory, starts, strict=True)])
        found = np.empty(count * width * 2, np.uint8)
        gather_rows(
            bases[owner] + rows * width * 2,
            row_bytes=width * 2,
            itemsize=2,
            units=select((width,), ()),
            out=found,
        )
        expected = np.stack(maps)[owner, rows]
        assert np.array_equal(found.view(np.uint16).reshape(count, width), expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_units_of_rows_are_those_of_the_index(data):
    """Any units of any rows are what torch's index gives, for every size of value."""
    dtype = data.draw(st.sampled_from([torch.uint8, torch.int16, torch.float32, torch.float64]))
    width = data.draw(st.integers(1, 9))
    values = torch.arange(11 * width).reshape(11, width).to(dtype)
    index = data.draw(
        st.one_of(
            st.slices(width).filter(lambda s: len(range(width)[s])),
            st.lists(st.integers(0, width - 1), min_size=1, max_size=4),
        )
    )
    if isinstance(index, slice) and (index.step or 1) < 0:
        index = list(range(width))[index]
    rows = data.draw(st.lists(st.integers(0, 10), min_size=1, max_size=20))
    addresses = values.data_ptr() + np.array(rows) * width * dtype.itemsize
    expected = values[rows][:, index].contiguous()
    found = np.empty(expected.nbytes, np.uint8)
    gather_rows(
        addresses,
        row_bytes=width * dtype.itemsize,
        itemsize=dtype.itemsize,
        units=select((width,), (index,)),
        out=found,
    )
    assert torch.equal(torch.from_numpy(found).view(dtype).view(expected.shape), expected)
