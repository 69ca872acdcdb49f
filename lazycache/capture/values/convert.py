"""Casts on the device, with what they lose counted, and whose memory a tensor lies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lazycache.codec.dtypes import DTYPES, of_torch
from lazycache.errors import CaptureError, UnsupportedDtypeError

Empty = Callable[[Sequence[int], torch.dtype, torch.device], torch.Tensor]
"""Shape, dtype and device to a tensor whose contents are anything."""


def new_memory(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return memory of torch's own.

    Example:
        >>> new_memory([2, 3], torch.float32, torch.device("cpu")).shape
        torch.Size([2, 3])
    """
    return torch.empty(tuple(shape), dtype=dtype, device=device)


def check_dtype(dtype: torch.dtype | None) -> torch.dtype | None:
    """Refuse a dtype that activations cannot be cast to in a meaningful way.

    Raises:
        CaptureError: not a floating-point dtype that can be stored.

    Example:
        >>> check_dtype(torch.bfloat16)
        torch.bfloat16
    """
    if dtype is None:
        return None
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        try:
            return of_torch(dtype).torch
        except UnsupportedDtypeError:
            pass  # said below, with what can be cast to
    known = ", ".join(row.name for row in DTYPES if row.torch.is_floating_point)
    raise CaptureError(
        f"dtype={dtype!r}: activations are cast to a floating-point dtype, one of {known}; None "
        "keeps what the model computes, bit for bit."
    )


def torch_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype that may be given by its name.

    Example:
        >>> torch_dtype("bfloat16"), torch_dtype(None)
        (torch.bfloat16, None)
    """
    if not isinstance(dtype, str):
        return check_dtype(dtype)
    named = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(named, torch.dtype):
        raise CaptureError(f"No dtype {dtype!r}: give one of torch, such as 'bfloat16'.")
    return check_dtype(named)


def cast(
    values: torch.Tensor, dtype: torch.dtype | None, *, empty: Empty = new_memory
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cast on the device; count the values that the dtype cannot hold.

    These are finite values beyond its range, and infinities where it has none: an 8-bit float may
    make 448 of them.

    Integers and booleans (token ids, masks) keep their dtype: a cast would only lose.

    Returns:
        The values, and the number lost as a 0-d tensor on the device; None where none can be.

    Example:
        >>> values, lost = cast(torch.tensor([1.0, 1e6]), torch.float16)
        >>> values, int(lost)
        (tensor([1., inf], dtype=torch.float16), 1)
    """
    if dtype is None or values.dtype == dtype or not values.is_floating_point():
        return values, None
    narrowed = empty(values.shape, dtype, values.device).copy_(values)
    if torch.finfo(values.dtype).max <= torch.finfo(dtype).max:
        return narrowed, None
    return narrowed, _lost(values, narrowed)


def _lost(values: torch.Tensor, narrowed: torch.Tensor) -> torch.Tensor:
    if narrowed.dtype.itemsize == 1:
        # 8-bit floats saturate or become NaN, by torch version: judge by the range itself
        beyond = values.isfinite() & (values.abs() > torch.finfo(narrowed.dtype).max)
        # widened: torch has no isfinite for them
        return (beyond | (values.isinf() & narrowed.to(values.dtype).isfinite())).sum()
    if narrowed.device.type == "cpu" and narrowed.numel():
        # min and max run at memory speed, isfinite does not; NaN here means to look closely
        low, high = torch.aminmax(narrowed)
        if bool(low.isfinite() & high.isfinite()):
            return torch.zeros((), dtype=torch.int64)
    return (values.isfinite() & narrowed.isinf()).sum()


def shares_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Say whether two tensors lie in one block of memory, overlapping or not.

    Example:
        >>> x = torch.ones(2)
        >>> shares_memory(x[1:], x), shares_memory(x.clone(), x)
        (True, False)
    """
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
