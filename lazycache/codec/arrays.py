"""One tensor of the model to a Parquet file of one column whose values are the tensor's bytes.

What a run keeps once, because sites are computed from it on read: a projection, not an activation.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import torch

from lazycache.codec.dtypes import as_bytes, of_tensor
from lazycache.codec.pages import FIXED, Column, PageFile, Payload, Write
from lazycache.codec.shard import VALUE
from lazycache.errors import CaptureError

MAX_ARRAY_BYTES = (1 << 31) - 1
"""One page holds it all, and says its size in 32 bits."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Where an array lies in its file."""

    length: int
    """Bytes of the whole file."""
    value_offset: int
    """Byte offset of its values; a multiple of 64."""
    value_crc: int
    """CRC-32 of them."""


def check_array(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that one file cannot hold bit for bit.

    Cost: looks at the tensor's metadata only.

    Raises:
        UnsupportedDtypeError: a dtype or layout that cannot be stored.
        CaptureError: it has no dimension, no values, or too many.

    Example:
        >>> check_array("head_out_3.weight", torch.zeros(4, 2, 8))
    """
    shape, nbytes = tuple(tensor.shape), math.prod(tensor.shape) * of_tensor(tensor).itemsize
    if not shape or not 0 < nbytes <= MAX_ARRAY_BYTES:
        raise CaptureError(
            f"array {name!r} of shape {shape} has {nbytes:,} bytes: it needs a dimension and "
            f"between 1 and {MAX_ARRAY_BYTES:,} bytes."
        )


def write_array(name: str, tensor: torch.Tensor, *, write: Write) -> Encoded:
    """Write a tensor that `check_array` takes as a whole file; return where its values are.

    Cost: one pass over the values for the CRC and one `write` of them; a contiguous tensor on the
    CPU is not copied.

    Example:
        >>> file = bytearray()
        >>> place = write_array("w", torch.ones(2, 3), write=lambda b: file.extend(b"".join(b)))
        >>> place.length == len(file), place.value_offset % 64
        (True, 0)
    """
    plain = tensor.detach().cpu().contiguous()
    dtype, rows = of_tensor(plain), len(plain)
    metadata = {
        "lazycache.version": "1",
        "lazycache.array": name,
        "lazycache.dtype": dtype.name,
        "lazycache.shape": json.dumps(list(plain.shape)),
    }
    column = Column(VALUE, FIXED, width=plain.nbytes // rows)
    pages = PageFile([column], metadata, write=write)
    (place,) = pages.add_group([Payload([as_bytes(plain)])], rows=rows)
    pages.finish()
    return Encoded(pages.length, place.offset, place.crc)
