"""What a site stores per row, told by the first tensor that arrives for it."""

from __future__ import annotations

import math

import numpy as np
import torch

from lazycache.codec.dtypes import of_tensor
from lazycache.errors import CaptureError
from lazycache.types import RAGGED, SiteBlock, SiteSpec

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
    _check_row(name, dtype.name, shape, row_bytes)
    return SiteSpec(name, table, dtype.name, shape, row_bytes)


def spec_of_block(name: str, block: SiteBlock) -> SiteSpec:
    """Return the spec of a site from a block of its values, ragged or not.

    Cost: looks at metadata and, of a ragged block, at its widths.

    Raises:
        UnsupportedDtypeError: the values cannot be stored bit for bit.
        CaptureError: as `spec_of`; or shape, widths and values of a ragged block contradict each
            other.

    Example:
        >>> block = SiteBlock(
        ...     "tokens", torch.zeros(2 * 3 + 2 * 5), shape=(2, -1), widths=np.array([3, 5])
        ... )
        >>> spec = spec_of_block("pattern_3", block)
        >>> spec.layout, spec.shape, spec.row_bytes
        ('ragged', (2, -1), 8)
    """
    if block.widths is None:
        if block.shape is not None and block.shape != tuple(block.values.shape[1:]):
            raise CaptureError(
                f"site {name!r}: rows of shape {tuple(block.values.shape[1:])} that are said to "
                f"have shape {block.shape}; a ragged site also needs the width of each row."
            )
        return spec_of(name, block.table, block.values)
    return _ragged(name, block, block.widths)


def _ragged(name: str, block: SiteBlock, widths: np.ndarray) -> SiteSpec:
    dtype, shape = of_tensor(block.values), block.shape or ()
    others = [size for size in shape if size != -1]
    if len(others) != len(shape) - 1 or any(size < 1 for size in others):
        raise CaptureError(
            f"site {name!r}: rows that have widths need a shape with one -1, not {block.shape}."
        )
    row_bytes = dtype.itemsize * math.prod(others)
    if widths.ndim != 1 or widths.dtype.kind not in "iu" or (widths < 1).any():
        raise CaptureError(f"site {name!r}: widths must be whole numbers from 1, one per row.")
    widest = int(widths.max(initial=1))
    _check_row(name, dtype.name, shape, row_bytes * widest)
    need = math.prod(others) * int(widths.sum(dtype=np.int64))
    if block.values.shape != (need,):
        raise CaptureError(
            f"site {name!r}: rows of these widths have {need:,} values one behind the other; "
            f"the tensor has shape {tuple(block.values.shape)}."
        )
    return SiteSpec(name, block.table, dtype.name, shape, row_bytes, RAGGED)


def _check_row(name: str, dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    if not 0 < nbytes <= MAX_ROW_BYTES:
        raise CaptureError(
            f"site {name!r}: a row of shape {shape} and dtype {dtype} is {nbytes:,} bytes; "
            f"a row must have between 1 and {MAX_ROW_BYTES:,}. Select units, or leave the site out."
        )
