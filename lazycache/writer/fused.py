"""Statistics in one compiled pass, where numba is installed: `pip install "lazycache[fast]"`.

numpy computes them operation by operation, each a pass over a tile in the cache, and between the
operations holds the interpreter. Compiled, all of them are one pass that holds nothing. Compiling
takes seconds of a processor, so a process does it once it has seen values enough for that to pay.
"""

from __future__ import annotations

import importlib.util
import math
import threading
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lazycache.codec.dtypes import by_name
from lazycache.codec.statistics import TOP_ROWS, ZONE_ROWS
from lazycache.writer.loops import Kernel, make_kernel
from lazycache.writer.numbers import SHIFTS
from lazycache.writer.rank_keys import from_keys, to_keys
from lazycache.writer.scratch import scratch
from lazycache.writer.tiles import GROUP_ROWS, parts_of

if TYPE_CHECKING:
    from lazycache.writer.zone_numbers import ZoneNumbers

PAYS = 1 << 30
"""Bytes of values of one dtype after which a process compiles: so many take about as long."""

_BROKEN = (OSError, RuntimeError, AttributeError, TypeError)
"""What numba and LLVM say where they are of versions, or on a machine, that do not fit."""

_GOLDEN = 0.618
_MANY = TOP_ROWS + TOP_ROWS // 4  # zones whose maxima say what is too small


class Compiler:
    """The compiled loops of this process. For any number of threads.

    Example:
        >>> compiler = Compiler()
        >>> compiler.kernel("int32", PAYS) is None, compiler.kernel("bfloat16", 1 << 20) is None
        (True, True)
    """

    def __init__(self) -> None:
        self._compiling = threading.Lock()
        self._kernels: dict[str, Kernel | None] = {}
        self._seen: Counter[str] = Counter()

    def kernel(self, dtype: str, nbytes: int) -> Kernel | None:
        """Return the loops of a dtype that has so many more bytes of values.

        None: numba is not there or has none for it, too few bytes were seen to compile, or another
        thread is at it.

        Cost: of one call in a process and dtype, seconds: it compiles.
        """
        if dtype in self._kernels:
            return self._kernels[dtype]
        self._seen[dtype] += nbytes
        return self.prepared(dtype, wait=False) if self._seen[dtype] >= PAYS else None

    def prepared(self, dtype: str, *, wait: bool = True) -> Kernel | None:
        """Return the loops of a dtype, compiled now if they are not yet.

        Args:
            dtype: What `SiteSpec.dtype` says.
            wait: Whether to wait for another thread that compiles; else None is returned then.
        """
        if not self._compiling.acquire(blocking=wait):
            return None
        try:
            if dtype not in self._kernels:
                self._kernels[dtype] = _compiled(dtype)
            return self._kernels[dtype]
        finally:
            self._compiling.release()


COMPILER = Compiler()
"""That of this process."""


class Fused:
    """The compiled pass over the chunks of one shard, and the ranks that it keeps. For one thread.

    Args:
        kernel: The loops.
        dtype: Of the site.
        kept: Values and rows that were the greatest so far, [units, 32]; None: no ranks are kept.
        units: How many.
    """

    def __init__(
        self, kernel: Kernel, dtype: str, kept: tuple[np.ndarray, np.ndarray] | None, *, units: int
    ) -> None:
        self._kernel = kernel
        self._raw = _raw(dtype)
        self._keys = np.empty((0, TOP_ROWS), np.int64) if kept is None else to_keys(*kept)
        self._least = from_keys(self._keys[:, 0])[0]
        self._units = units
        self._is_new = not np.isfinite(self._least).any()

    def fill(self, zones: ZoneNumbers, runs: Sequence[np.ndarray], *, row: int) -> None:
        """Fill in extremes, sums and squares (deviations, in two steps) of the zones of a chunk.

        What is not finite shows as an extreme beyond `Numbers.largest`, or as NaN.
        """
        first = 0
        for run in runs:
            count = parts_of(len(run), ZONE_ROWS)
            at = slice(first, first + count)
            self._run(zones, run, at, row)
            first, row = first + count, row + len(run)

    def _run(self, zones: ZoneNumbers, run: np.ndarray, at: slice, row: int) -> None:
        count = at.stop - at.start
        starts = self._is_new and count >= _MANY and len(self._keys) > 0
        self._is_new = False
        groups = parts_of(len(run), GROUP_ROWS) if starts else ZONE_ROWS // GROUP_ROWS
        maxima = scratch("fused", (groups, self._units), np.dtype(np.float32))
        raw, step = np.ascontiguousarray(run).view(self._raw), _step(count)
        parts = zones.low[at], zones.high[at], zones.sum[at], zones.m2[at], maxima
        two_steps, largest = zones.in_two_steps, zones.largest
        if starts:
            none = self._least[:0], self._keys[:0]
            self._kernel(raw, row, step, largest, False, two_steps, *parts, *none)
            self._least = _bound(zones.high[at], largest)
        ranks = self._least, self._keys
        self._kernel(raw, row, step, largest, starts, two_steps, *parts, *ranks)

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the greatest values and their rows, [units, 32], in any order."""
        return from_keys(self._keys)

    def forget(self) -> None:
        """Keep no ranks any more."""
        self._keys, self._least = self._keys[:0], self._least[:0]


def _step(zones: int) -> int:
    """Return a step that comes to every zone once, and to late ones early.

    Of values that rise from row to row every one would be the greatest so far.
    """
    step = max(1, round(_GOLDEN * zones))
    while math.gcd(step, zones) > 1:
        step -= 1
    return step


def _bound(high: np.ndarray, largest: float) -> np.ndarray:
    """Return what the greatest of each unit are not below: one value of each zone is its maximum.

    Without it each value greater than all but 31 before it would be put among the ranks: two
    hundred of 8,192 in any order, instead of fifty.
    """
    finite = np.where(np.abs(high) <= largest, high, -np.inf).astype(np.float32)
    place = len(high) - TOP_ROWS
    bound: np.ndarray = np.partition(finite.T.copy(), place, axis=1)[:, place].copy()
    return bound


def _raw(dtype: str) -> np.dtype:
    size = by_name(dtype).itemsize
    return np.dtype(np.float32) if dtype == "float32" else np.dtype(f"i{size}")


def _compiled(dtype: str) -> Kernel | None:
    """Compile the loops of a dtype; None if there is nothing to compile with, or none for it."""
    if dtype not in SHIFTS and dtype != "float32":
        return None
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        import numba
        from numba.core.errors import NumbaError
    except (*_BROKEN, ImportError) as exc:  # one that does not go with what is there
        _refused(exc)
        return None
    try:
        return _by_numba(numba, dtype)
    except (*_BROKEN, NumbaError) as exc:
        _refused(exc)
    return None


def _refused(error: Exception) -> None:
    """Tell why numpy computes, though numba was installed: it would else end a capture."""
    told = str(error).strip().split("\n")[0]
    warnings.warn(
        f"numpy computes the statistics: numba cannot ({told})", RuntimeWarning, stacklevel=2
    )


def _by_numba(numba: Any, dtype: str) -> Kernel:
    compiled = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})
    sums = np.float64 if dtype == "float32" else np.float32
    kernel: Any = make_kernel(compiled, compiled(_load(dtype)), sums)
    types = numba.types
    narrow, wide = (types.Array(of, 2, "C") for of in (types.float32, types.float64))
    raw = types.Array(numba.from_dtype(_raw(dtype)), 2, "C", readonly=True)
    flag = types.boolean
    least, keys = types.Array(types.float32, 1, "C"), types.Array(types.int64, 2, "C")
    count, largest = types.intp, types.float64
    kernel.compile(
        (raw, count, count, largest, flag, flag, narrow, narrow, wide, wide, narrow, least, keys)
    )
    kernel.disable_compile()
    made: Kernel = kernel
    return made


def _load(dtype: str) -> Any:
    """Return what makes a float32 of a raw value; see `Numbers`."""
    if dtype == "float32":
        return lambda value: value
    shift, smaller = SHIFTS[dtype]
    if not smaller:
        return lambda bits: np.int32(np.int32(bits) << shift).view(np.float32)
    magnitude = ((1 << (8 * by_name(dtype).itemsize - 1)) - 1) << shift
    mask, scale = np.int32(magnitude - (1 << 31)), np.float32(2.0**smaller)
    return lambda bits: np.int32(np.int32(bits) << shift & mask).view(np.float32) * scale
