"""Some of many rows by chance: the same for the same seed, on any machine. Pure."""

from __future__ import annotations

import operator

import numpy as np

from lazycache.errors import SelectionError


def places(count: int, n: int, *, seed: int) -> np.ndarray:
    """Return `n` of the numbers below `count`, ascending, each set of them alike likely.

    From the raw numbers of PCG64, whose stream never changes: numpy's own samples may change with
    its version. Cost: in proportion to the smaller of `n` and `count - n`, and to `n`.

    Raises:
        SelectionError: there are fewer, or `n` or `seed` is no whole number from 0.

    Example:
        >>> places(10, 3, seed=0).tolist()
        [1, 4, 7]
    """
    n, seed = _whole(n, "n"), _whole(seed, "seed")
    if n > count:
        raise SelectionError(f"a sample of {n:,} rows: {count:,} are selected.")
    if 2 * n > count:
        left = np.ones(count, dtype=np.bool_)
        left[_drawn(count, count - n, seed)] = False
        return np.flatnonzero(left)
    return np.sort(_drawn(count, n, seed))


def _drawn(count: int, n: int, seed: int) -> np.ndarray:
    """Draw until there are `n` different ones; at most half of them are drawn for nothing."""
    generator = np.random.PCG64(seed)
    drawn = np.empty(0, dtype=np.int64)
    while len(drawn) < n:
        raw = generator.random_raw(2 * (n - len(drawn)) + 16) % np.uint64(count)
        drawn = np.concatenate([drawn, raw.astype(np.int64)])
        first = np.unique(drawn, return_index=True)[1]
        drawn = drawn[np.sort(first)]
    return drawn[:n]


def _whole(value: object, what: str) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # it says so
    except TypeError as exc:
        raise SelectionError(f"sample takes a whole number as {what}, not {value!r}.") from exc
    if number < 0 or isinstance(value, bool):
        raise SelectionError(f"sample takes a whole number from 0 as {what}, not {value!r}.")
    return number
