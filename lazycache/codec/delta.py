"""Parquet's DELTA_BINARY_PACKED for 32-bit integers: how a page says the length of each value.

Lengths of neighbours are mostly equal (rows of one example have one width), and equal lengths cost
nothing: 128 that do not change take 5 bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lazycache.codec.thrift import varint, zigzag

_BLOCK = 128  # the smallest that the format allows: everybody reads it
_MINIBLOCKS = 4
_MINIBLOCK = _BLOCK // _MINIBLOCKS


def encode_deltas(numbers: NDArray[np.int64]) -> bytes:
    r"""Return integers, each of 32 bits, as a DELTA_BINARY_PACKED sequence.

    Cost: a few microseconds per 128 numbers.

    Example:
        >>> encode_deltas(np.array([7, 7, 7])).hex(" ")
        '80 01 04 03 0e 00 00 00 00 00'
        >>> len(encode_deltas(np.full(8192, 7)))
        326
    """
    first = int(numbers[0]) if len(numbers) else 0
    head = b"".join(map(varint, (_BLOCK, _MINIBLOCKS, len(numbers)))) + zigzag(first)
    deltas = np.diff(numbers)
    blocks = (_block(deltas[at : at + _BLOCK]) for at in range(0, len(deltas), _BLOCK))
    return head + b"".join(blocks)


def _block(deltas: NDArray[np.int64]) -> bytes:
    least = int(deltas.min())
    above = deltas - least
    parts = [above[at : at + _MINIBLOCK] for at in range(0, len(above), _MINIBLOCK)]
    widths = [int(part.max()).bit_length() for part in parts]
    head = zigzag(least) + bytes(widths).ljust(_MINIBLOCKS, b"\0")
    return head + b"".join(_packed(part, bits) for part, bits in zip(parts, widths, strict=True))


def _packed(numbers: NDArray[np.int64], bits: int) -> bytes:
    """Return the low bits of each number, one behind the other; a short miniblock is filled up."""
    whole = np.zeros(_MINIBLOCK, "<u8")
    whole[: len(numbers)] = numbers
    apart = np.unpackbits(whole.view(np.uint8).reshape(_MINIBLOCK, -1), axis=1, bitorder="little")
    return np.packbits(apart[:, :bits], bitorder="little").tobytes()
