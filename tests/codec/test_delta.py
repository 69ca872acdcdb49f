"""Lengths as Parquet packs them, read back by a decoder that was written from the format alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.delta import encode_deltas


def uleb(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def zigzag(data: bytes, at: int) -> tuple[int, int]:
    number, at = uleb(data, at)
    return (number >> 1) ^ -(number & 1), at


def decode(data: bytes) -> list[int]:
    """Decode DELTA_BINARY_PACKED; every byte must be used."""
    block, at = uleb(data, 0)
    parts, at = uleb(data, at)
    count, at = uleb(data, at)
    first, at = zigzag(data, at)
    numbers = [first]
    while len(numbers) < count:
        least, at = zigzag(data, at)
        widths, at = data[at : at + parts], at + parts
        for bits in widths:
            if len(numbers) >= count:
                break
            size = block // parts * bits // 8
            packed = int.from_bytes(data[at : at + size], "little")
            at += size
            for i in range(min(block // parts, count - len(numbers))):
                above = packed >> (i * bits) & ((1 << bits) - 1)
                numbers.append(numbers[-1] + least + above)
    assert at == len(data)
    return numbers[:count]


@given(st.lists(st.integers(0, 2**30), max_size=300) | st.lists(st.integers(1, 3), max_size=300))
def test_every_list_of_lengths_comes_back(numbers):
    """What is packed is unpacked equal, whatever the numbers and however many."""
    assert decode(encode_deltas(np.array(numbers, np.int64))) == numbers


@pytest.mark.parametrize("count", [1, 2, 32, 33, 128, 129, 130, 8192])
def test_the_ends_of_blocks_are_exact(count):
    """Lists that end at, before and behind a miniblock or block come back."""
    rising = np.arange(count, dtype=np.int64) ** 2
    for numbers in (rising, rising[::-1], np.full(count, 9)):
        assert decode(encode_deltas(numbers)) == numbers.tolist()


def test_equal_lengths_cost_nothing():
    """Widths that do not change cost 5 bytes for 128 rows."""
    assert len(encode_deltas(np.full(1 + 128 * 10, 24))) == 50 + 6
