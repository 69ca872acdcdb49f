"""Values of any dtype as numbers that torch can compare: what has an order in every dtype. Pure."""

from __future__ import annotations

import torch

_SIGN = -(1 << 63)
_NARROW = {torch.float8_e4m3fn, torch.float8_e5m2}
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def comparable(values: torch.Tensor) -> torch.Tensor:
    """Return values that compare as these do, in a dtype in which torch can compare.

    NaN stays NaN. Nothing is copied where torch can compare the values as they are.
    """
    if values.dtype in _NARROW:
        return values.to(torch.float32)
    if values.dtype in {torch.uint16, torch.uint32}:
        return values.to(torch.int64)
    if values.dtype == torch.uint64:
        # without its sign bit an unsigned word orders as a signed one
        return values.contiguous().view(torch.int64) ^ _SIGN
    return values.to(torch.uint8) if values.dtype == torch.bool else values


def original(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return values of `dtype` from what `comparable` made of them."""
    if dtype == torch.uint64:
        return (values ^ _SIGN).view(torch.uint64)
    return values.to(dtype)


def key_bits(dtype: torch.dtype) -> int:
    """Return how many bits the keys of a dtype have.

    Example:
        >>> key_bits(torch.bfloat16), key_bits(torch.float8_e5m2)
        (16, 16)
    """
    # an 8-bit float is widened to 16 bits, which hold it exactly
    return 16 if dtype in _NARROW else 8 * dtype.itemsize


def keys_of(values: torch.Tensor) -> torch.Tensor:
    """Return int64 keys in the order of the values: signed numbers of `key_bits` bits.

    -0.0 and 0.0 have one key; so has every NaN, and it is the largest.

    Example:
        >>> keys_of(torch.tensor([0.0, -0.0, torch.inf, torch.nan])).argsort(stable=True).tolist()
        [0, 1, 2, 3]
    """
    if values.dtype.is_floating_point:
        return _float_keys(values.to(torch.float16) if values.dtype in _NARROW else values)
    if values.dtype == torch.uint64:
        return values.contiguous().view(torch.int64) ^ _SIGN
    wide = values.to(torch.int64)
    signed = values.dtype.is_signed or values.dtype == torch.bool
    return wide if signed else wide - (1 << (8 * values.dtype.itemsize - 1))


def _float_keys(values: torch.Tensor) -> torch.Tensor:
    bits = 8 * values.dtype.itemsize
    positive = (1 << (bits - 1)) - 1
    # adding zero makes a positive zero of a negative one
    words = (values + 0).contiguous().view(_WORDS[values.dtype.itemsize]).to(torch.int64)
    words = words ^ ((words >> (bits - 1)) & positive)
    return words.masked_fill_(values.isnan(), positive)


def values_of_keys(keys: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the values of `dtype` that have these keys.

    Example:
        >>> values_of_keys(keys_of(torch.tensor([-1.5, 2.0])), torch.float32)
        tensor([-1.5000,  2.0000])
    """
    if dtype.is_floating_point:
        bits = key_bits(dtype)
        words = keys ^ ((keys >> (bits - 1)) & ((1 << (bits - 1)) - 1))
        wide = torch.float16 if dtype in _NARROW else dtype
        return words.to(_WORDS[bits // 8]).view(wide).to(dtype)
    if dtype == torch.uint64:
        return (keys ^ _SIGN).view(torch.uint64)
    signed = dtype.is_signed or dtype == torch.bool
    return (keys if signed else keys + (1 << (8 * dtype.itemsize - 1))).to(dtype)
