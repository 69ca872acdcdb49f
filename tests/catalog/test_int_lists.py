"""Lists of integers in JSON."""

import base64
import json
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog.int_lists import decode_ints, encode_ints
from lazycache.errors import CorruptShardError

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64))
def test_any_int64_comes_back(values):
    """Every int64 survives, also where a difference of neighbours does not fit 64 bits."""
    array = np.array(values, dtype=np.int64)
    back = decode_ints(json.loads(json.dumps(encode_ints(array))), at_most=len(values))
    assert back.dtype == np.int64
    assert back.tolist() == values


def test_counted_ids_take_almost_nothing():
    """A million counted ids take less than 20 KB."""
    entry = encode_ints(np.arange(10**6))
    assert entry["n"] == 10**6
    assert len(entry["z"]) < 20_000
    assert np.array_equal(decode_ints(entry, at_most=10**6), np.arange(10**6))


def test_the_format_is_what_is_documented():
    """Deltas as little-endian int64, first value first, zlib, base64: readable by anybody."""
    raw = zlib.decompress(base64.b64decode(encode_ints(np.array([5, 7, 4]))["z"]))
    assert np.frombuffer(raw, "<i8").tolist() == [5, 2, -3]


def entry(raw, n):
    return {"n": n, "z": base64.b64encode(zlib.compress(raw)).decode()}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"n": 1},
        {"n": -1, "z": ""},
        {"n": True, "z": ""},
        {"n": 0, "z": "not base64!"},
        {"n": 0, "z": "AAAA"},
        entry(bytes(8), 2),
        entry(bytes(24), 2),
        entry(bytes(7), 1),
        entry(bytes(16), 2**62),
        {"n": 1, "z": entry(bytes(8), 1)["z"][:-8] + "AAAAAAA="},
    ],
)
def test_damage_is_an_error(value):
    """What is not such a list is refused, whatever is wrong."""
    with pytest.raises(CorruptShardError):
        decode_ints(value, at_most=2**62)


def test_a_bomb_does_not_explode():
    """Text that unpacks to far more than announced is refused before it is unpacked."""
    for megabytes in (10, 300):  # some 10 KB and 300 KB of text
        packer = zlib.compressobj(9)
        block = bytes(1 << 20)
        packed = b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()
        text = base64.b64encode(packed).decode()
        assert peak_of_refusal({"n": 4, "z": text}, at_most=4) < 2 << 20
        # announced as it is, but no file can have so many examples
        announced = {"n": megabytes << 17, "z": text}
        assert peak_of_refusal(announced, at_most=12) < 2 << 20


def peak_of_refusal(entry, *, at_most):
    """Bytes held at most while an entry is refused."""
    tracemalloc.start()
    with pytest.raises(CorruptShardError):
        decode_ints(entry, at_most=at_most)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
