"""What a site stores per row, told by the first tensor that arrives for it."""

from __future__ import annotations

import math

import torch

from lazycache.codec.dtypes import of_tensor
from lazycache.errors import CaptureError
from lazycache.types import SiteSpec

MAX_ROW_BYTES = 1 << 30
"""A chunk holds at least one row and a Parquet page is below 2 GiB: half of it leaves room."""


def spec_of(name: str, table: str, tensor: torch.Tensor) -> SiteSpec:
    """Return the spec of a site from a tensor `[rows, *shape]` of its values.

    Cost: looks at the tensor's metadata only.

    Raises:
        UnsupportedDtypeError: the values cannot be stored bit for bit.
        CaptureError: there is no row dimension, or a row has no bytes or too many.

    Example:
        >>> spec = spec_of("z_3", "tokens", torch.zeros(5, 2, 4, dtype=torch.bfloat16))
        >>> spec.dtype, spec.shape, spec.row_bytes
        ('bfloat16', (2, 4), 16)
    """
    if tensor.ndim == 0:
        raise CaptureError(f"site {name!r}: a 0-d tensor has no rows; give it shape [rows, ...].")
    dtype = of_tensor(tensor)
    shape = tuple(tensor.shape[1:])
    row_bytes = dtype.itemsize * math.prod(shape)
    if not 0 < row_bytes <= MAX_ROW_BYTES:
        raise CaptureError(
            f"site {name!r}: a row of shape {shape} and dtype {dtype.name} is {row_bytes:,} bytes; "
            f"a row must have between 1 and {MAX_ROW_BYTES:,}. Select units, or leave the site out."
        )
    return SiteSpec(name, table, dtype.name, shape, row_bytes)
