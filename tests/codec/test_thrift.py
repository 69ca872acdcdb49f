"""The thrift writer against an independent reader."""

from fastparquet.cencoding import from_buffer
from hypothesis import given
from hypothesis import strategies as st

from lazycache.codec.thrift import i16, i32, i64, listing, struct, structs, text


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1), st.text(max_size=200))
def test_numbers_and_text_are_read_back(small, large, string):
    """An independent thrift reader reads every integer and string that is written."""
    data = struct({1: i32(small), 2: i64(large), 3: text(string)}).data
    read = from_buffer(data)
    assert (read[1], read[2], read[3].decode()) == (small, large, string)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40, unique=True).map(sorted))
def test_fields_far_apart_are_read_back(numbers):
    """Field ids may be any distance apart: short and long headers."""
    fields = [number + 1 for number in numbers]
    data = struct({number: i32(number) for number in fields}).data
    assert _fields(data) == {number: number for number in fields}


@given(st.integers(1, 300))
def test_lists_of_any_size_are_read_back(size):
    """Lists below and above 15 elements have different headers."""
    read = from_buffer(struct({1: listing([i64(n) for n in range(size)])}).data)
    assert read[1] == list(range(size))


def test_an_empty_list_of_structs_is_written():
    """No structs are a list of size zero of type struct."""
    assert structs([]).data == b"\x0c"
    assert structs([struct({1: i16(-2)})]).data == b"\x1c\x14\x03\x00"


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _fields(data):
    """Read a struct of i32 fields by the book: the compact protocol's specification."""
    found, last, at = {}, 0, 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 0x0F
        assert kind == 5
        at += 1
        if delta:
            last += delta
        else:
            zigzag, at = _varint(data, at)
            last = zigzag >> 1
        zigzag, at = _varint(data, at)
        found[last] = (zigzag >> 1) ^ -(zigzag & 1)
    assert at == len(data) - 1
    return found
