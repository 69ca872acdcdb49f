"""Lists of integers in JSON."""

import base64
import json
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
    back = decode_ints(json.loads(json.dumps(encode_ints(array))))
    assert back.dtype == np.int64
    assert back.tolist() == values


def test_counted_ids_take_almost_nothing():
    """A million counted ids take less than 20 KB."""
    entry = encode_ints(np.arange(10**6))
    assert entry["n"] == 10**6
    assert len(entry["z"]) < 20_000
    assert np.array_equal(decode_ints(entry), np.arange(10**6))


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
        decode_ints(value)


def test_a_bomb_does_not_explode():
    """Text that unpacks to far more than announced is refused before it is unpacked."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    packed = b"".join(packer.compress(block) for _ in range(300)) + packer.flush()
    bomb = {"n": 4, "z": base64.b64encode(packed).decode()}
    assert len(packed) > 1 << 14
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(CorruptShardError):
        decode_ints(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
