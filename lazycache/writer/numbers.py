"""Bytes of values to numbers that numpy computes with, and back. For one thread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lazycache.codec.dtypes import Dtype, by_name
from lazycache.writer.scratch import scratch

SHIFTS = {
    "bfloat16": (16, 0),
    "float16": (13, 112),
    "float8_e4m3fn": (20, 120),
    "float8_e5m2": (21, 112),
}
"""Of floats: how far their exponent is from that of a float32, and how much smaller it counts."""

_BY_TORCH = ("bfloat16", "float16")  # in one pass where numpy needs two
_GRAIN = 32_768  # numbers up to which torch does not start threads for an operation
_NARROW = 2  # bytes


class Numbers:
    r"""The numbers of one dtype, in one that numpy has and that holds each of them exactly.

    That is float32 or float64, also for integers of at most 32 bits; those of 64 stay what they
    are. torch computes only where it does so on this thread alone; see `one_thread`.

    Args:
        dtype: What `SiteSpec.dtype` says.

    Example:
        >>> numbers, ones = Numbers("bfloat16"), np.array([0x3F80, 0xBF80], np.uint16)
        >>> numbers.exact(ones)
        array([ 1., -1.], dtype=float32)
        >>> numbers.stored(np.array([1, np.inf], np.float32)).tobytes()
        b'\x80?\xff\xff'
    """

    def __init__(self, dtype: str) -> None:
        self._dtype = by_name(dtype)
        self.raw = self._dtype.numpy or np.dtype(f"u{self._dtype.itemsize}")
        """What the bytes are taken as."""
        self.dtype = _working(self._dtype)
        """Of the numbers."""
        self.is_float = self._dtype.torch.is_floating_point
        """Whether there may be NaN and Inf."""
        self.is_narrow = self.is_float and self._dtype.itemsize <= _NARROW
        """Whether a few of them, or of their squares, may be added as float32."""
        self.largest = torch.finfo(self._dtype.torch).max if self.is_float else 0.0
        """The greatest finite number of floats."""
        self._exact = _exact(self._dtype, self.dtype)

    def of(self, raw: np.ndarray, room: np.ndarray | None = None) -> np.ndarray:
        """Return numbers, each finite one exactly; what is not finite is beyond `largest`, or NaN.

        Args:
            raw: The values.
            room: Where they may be put; None: into memory that the next call uses again.

        Cost: a pass or a few over values in the cache; none where the bytes are the numbers.
        """
        if raw.dtype == self.dtype:
            return raw
        numbers = scratch("numbers", raw.shape, self.dtype) if room is None else room
        if self._dtype.name in _BY_TORCH and _is_torch_alone(raw):
            torch.from_numpy(numbers).copy_(torch.from_numpy(raw).view(self._dtype.torch))
        elif self._dtype.name in SHIFTS:
            self._shift(raw, numbers)
        else:
            np.copyto(numbers, raw)
        return numbers

    def exact(self, raw: np.ndarray) -> np.ndarray:
        """Return new numbers, NaN and Inf among them. Slower than `of`: for few values."""
        return self._exact(raw)

    def stored(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers as the site's values in new memory; NaN for what is not finite."""
        if not self.is_float:
            return numbers.astype(self.raw)
        finite = np.isfinite(numbers)
        clean = numbers if finite.all() else np.where(finite, numbers, np.nan)
        if self._dtype.numpy is not None:
            return clean.astype(self.raw)
        values = torch.from_numpy(clean).to(self._dtype.torch)
        # of the same size: of one unit, strides may be anything
        bits = torch.uint8 if self._dtype.itemsize == 1 else torch.uint16
        return values.view(bits).numpy()

    def _shift(self, raw: np.ndarray, numbers: np.ndarray) -> None:
        """Move sign, exponent and mantissa to where a float32 has them: faster than to convert."""
        shift, smaller = SHIFTS[self._dtype.name]
        bits = numbers.view(np.int32)
        np.copyto(bits, raw.view(f"i{self._dtype.itemsize}"))  # copies of the sign above
        np.left_shift(bits, shift, out=bits)
        if smaller:
            magnitude = ((1 << (8 * self._dtype.itemsize - 1)) - 1) << shift
            np.bitwise_and(bits, np.int32(magnitude - (1 << 31)), out=bits)
            np.multiply(numbers, np.float32(2.0**smaller), out=numbers)


def _is_torch_alone(raw: np.ndarray) -> bool:
    """Whether torch takes these values, and no further threads for them."""
    return raw.flags.writeable and (raw.size <= _GRAIN or torch.get_num_threads() == 1)


def _working(dtype: Dtype) -> np.dtype:
    if dtype.itemsize < 4 or dtype.name == "float32":  # noqa: PLR2004 - bytes
        return np.dtype("float32")
    if dtype.itemsize == 4 or dtype.name == "float64":  # noqa: PLR2004
        return np.dtype("float64")
    return np.dtype(dtype.name)


def _exact(dtype: Dtype, working: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    if dtype.numpy is not None:
        return lambda raw: raw.astype(working)
    if dtype.itemsize == 1:
        patterns = torch.arange(256, dtype=torch.uint8, device="cpu").view(dtype.torch)
        table = patterns.float().numpy()
        return lambda raw: table[raw]
    return lambda raw: (raw.astype(np.uint32) << 16).view(np.float32)
