"""Long lists of integers as short JSON: deltas, little-endian, zlib, base64. Pure.

Example ids and their lengths repeat or count up, so their differences compress to almost nothing:
a million counted ids take about 10 KB.
"""

from __future__ import annotations

import binascii
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazycache.catalog import fields
from lazycache.errors import CorruptShardError

MOST_EXAMPLES = 1 << 25
"""Examples of one table file: their ids and lengths take 512 MiB, from as little as 600 kB."""

_LITTLE = np.dtype("<i8")


def encode_ints(values: NDArray[np.int64]) -> dict[str, Any]:
    """Return `values` (int64[n]) as a JSON object.

    Example:
        >>> decode_ints(encode_ints(np.array([3, 4, 5, -7])), at_most=4)
        array([ 3,  4,  5, -7])
    """
    deltas = np.diff(values.astype(np.int64, copy=False), prepend=np.int64(0)).astype(
        _LITTLE, copy=False
    )
    packed = zlib.compress(deltas.tobytes(), 6)
    return {"n": len(values), "z": binascii.b2a_base64(packed, newline=False).decode()}


def decode_ints(value: Any, *, at_most: int) -> NDArray[np.int64]:
    """Return the int64[n] array of such an object; its size is checked before it is allocated.

    `at_most` is the largest n that can be true.

    Raises:
        CorruptShardError: it is not what `encode_ints` makes.
    """
    entry = fields.mapping(value)
    announced = fields.integer(entry, "n")
    if announced > at_most:
        raise CorruptShardError(f"a list of {announced} integers, where {at_most} can be")
    nbytes = 8 * announced
    try:
        packed = binascii.a2b_base64(fields.text(entry, "z"), strict_mode=True)
        raw = _unpack(packed, nbytes)
    except (ValueError, OverflowError, zlib.error) as exc:
        raise CorruptShardError(f"a list of integers is damaged: {exc}") from exc
    if len(raw) != nbytes:
        raise CorruptShardError(f"a list of integers has {len(raw)} bytes instead of {nbytes}")
    sums = np.add.accumulate(np.frombuffer(raw, dtype=_LITTLE))  # wraps around as np.diff did
    return sums.astype(np.int64, copy=False)


def _unpack(packed: bytes, nbytes: int) -> bytes:
    """Decompress without ever holding much more than what was announced."""
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(packed, nbytes + 1)
    if not unpacker.eof:
        raise CorruptShardError(f"a list of integers has more or less than {nbytes} bytes")
    return raw
