"""The loops of statistics, as a compiler takes them: one pass over a zone that computes everything.

What `zone_numbers` and `greatest` do with numpy, operation by operation over tiles, is here done
value by value; see `fused`. Nothing here is called as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lazycache.codec.statistics import TOP_ROWS, ZONE_ROWS
from lazycache.writer.rank_keys import ROW_MASK
from lazycache.writer.tiles import GROUP_ROWS

Kernel = Callable[..., None]
"""Fills in what a run of rows amounts to; see `make_kernel`."""

Compiled = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a function fast."""

_LOWEST = np.float32(-np.inf)
_HIGHEST = np.float32(np.inf)
assert len("abcdefgh") == GROUP_ROWS, "groups are written out below"


def make_kernel(compiled: Compiled, load: Callable[..., Any], sums: type) -> Kernel:
    """Return the loops for one dtype.

    Args:
        compiled: Makes a function fast.
        load: Raw value to float32.
        sums: `numpy.float32` or `numpy.float64`: what eight values and their squares are added as.

    The kernel takes: raw[rows, units]; row: number of the first one; step: zones are walked by it;
    largest: finite number; summed: whether all but the ranks is there; two_steps: whether
    deviations are computed behind the mean; low, high: float32[zones, units]; total, m2:
    float64[zones, units], m2 being the sum of squares without `two_steps`; maxima: float32[groups,
    units], room for those of one zone or of all; least: float32[units], and keys: int64[units, 32],
    see `rank_keys`, rising, or of no units: what the greatest are not below, and the greatest.
    """
    zone, rank = _zone(compiled, load, sums), _rank(compiled, load)

    @compiled
    def kernel(
        raw, row, step, largest, summed, two_steps, low, high, total, m2, maxima, least, keys
    ):
        zones = len(low)
        for n in range(zones):
            z = n * step % zones
            part = raw[z * ZONE_ROWS : (z + 1) * ZONE_ROWS]
            first = z * (ZONE_ROWS // GROUP_ROWS) % len(maxima)
            room = maxima[first : first + ZONE_ROWS // GROUP_ROWS]
            if not summed:
                zone(part, two_steps, low[z], high[z], total[z], m2[z], room)
            rank(part, row + z * ZONE_ROWS, largest, room, high[z], least, keys)

    return kernel


def _zone(compiled: Compiled, load: Callable[..., Any], sums: type) -> Any:
    """Return the loop over a zone that fills in all but the ranks."""
    group, few = _sums(compiled, load, sums)
    deviations = _deviations(compiled, load)

    @compiled
    def zone(raw, two_steps, low, high, total, m2, maxima):
        low[:], high[:], total[:], m2[:] = _HIGHEST, _LOWEST, 0, 0
        for r in range(0, len(raw), GROUP_ROWS):
            room = maxima[r // GROUP_ROWS]
            if r + GROUP_ROWS <= len(raw):
                group(
                    raw[r], raw[r + 1], raw[r + 2], raw[r + 3],
                    raw[r + 4], raw[r + 5], raw[r + 6], raw[r + 7],
                    low, high, total, m2, room,
                )  # fmt: skip
            else:
                few(raw[r:], low, high, total, m2, room)
        if two_steps:
            deviations(raw, total, m2)
        for u in range(len(low)):
            if np.isnan(total[u]):  # NaN is passed over above: it shall show
                low[u] = np.nan

    return zone


def _sums(compiled: Compiled, load: Callable[..., Any], sums: type) -> tuple[Any, Any]:
    """Return the loops over eight rows, and over fewer: extremes, sums, squares."""

    @compiled
    def group(r0, r1, r2, r3, r4, r5, r6, r7, low, high, total, squares, maxima):
        for u in range(len(low)):
            a, b, c, d = load(r0[u]), load(r1[u]), load(r2[u]), load(r3[u])
            e, f, g, h = load(r4[u]), load(r5[u]), load(r6[u]), load(r7[u])
            # the first one is a number, so that NaN, which is above nothing, is passed over
            most = max(_LOWEST, a, b, c, d, e, f, g, h)
            least = min(_HIGHEST, a, b, c, d, e, f, g, h)
            maxima[u] = most
            low[u], high[u] = min(low[u], least), max(high[u], most)
            a, b, c, d = sums(a), sums(b), sums(c), sums(d)
            e, f, g, h = sums(e), sums(f), sums(g), sums(h)
            total[u] += np.float64(a + b + c + d + e + f + g + h)
            squares[u] += np.float64(a * a + b * b + c * c + d * d + e * e + f * f + g * g + h * h)

    @compiled
    def few(raw, low, high, total, squares, maxima):
        for u in range(len(low)):
            most, least = _LOWEST, _HIGHEST
            for r in range(len(raw)):
                value = load(raw[r, u])
                most, least = max(most, value), min(least, value)
                total[u] += np.float64(value)
                squares[u] += np.float64(value) * np.float64(value)
            maxima[u] = most
            low[u], high[u] = min(low[u], least), max(high[u], most)

    return group, few


def _deviations(compiled: Compiled, load: Callable[..., Any]) -> Any:
    """Return the loop that computes sums, and then squared deviations from the means."""

    @compiled
    def deviations(raw, total, m2):
        total[:] = 0
        m2[:] = 0
        for r in range(len(raw)):
            values = raw[r]
            for u in range(len(total)):
                total[u] += np.float64(load(values[u]))
        for r in range(len(raw)):
            values = raw[r]
            for u in range(len(total)):
                apart = np.float64(load(values[u])) - total[u] / len(raw)
                m2[u] += apart * apart

    return deviations


def _rank(compiled: Compiled, load: Callable[..., Any]) -> Any:
    """Return the loop that puts the greatest values of a zone among those that there are."""

    @compiled
    def key_of(value, row):
        zero = np.int64(1) if value == 0 and np.float32(1) / value < 0 else np.int64(0)
        bits = np.int64(np.float32(value + np.float32(0)).view(np.int32))  # there are two zeros
        rising = bits ^ (bits >> 31 & ROW_MASK)
        return rising << 32 | (ROW_MASK - row) << 1 | zero

    @compiled
    def value_of(key):
        rising = key >> 32
        return np.int32(rising ^ (rising >> 31 & ROW_MASK)).view(np.float32)

    @compiled
    def put(keys, key):
        # they rise, and the first one falls out; without a branch that could be guessed wrong
        for n in range(TOP_ROWS - 1):
            keys[n] = min(keys[n + 1], max(keys[n], key))
        keys[TOP_ROWS - 1] = max(key, keys[TOP_ROWS - 1])

    @compiled
    def look(raw, u, first, row, largest, least, keys):
        for r in range(first, min(first + GROUP_ROWS, len(raw))):
            value = load(raw[r, u])
            # not NaN; -Inf of a narrow dtype may be a number here, below all that are finite
            if max(least[u], -largest) <= value <= largest:
                key = key_of(value, row + r)
                if key > keys[u, 0]:
                    put(keys[u], key)
                    least[u] = max(least[u], value_of(keys[u, 0]))

    @compiled
    def rank(raw, row, largest, maxima, high, least, keys):
        for u in range(len(least)):
            if high[u] >= least[u]:
                for first in range(0, len(raw), GROUP_ROWS):
                    most = maxima[first // GROUP_ROWS, u]
                    if most >= least[u] and key_of(most, row + first) > keys[u, 0]:
                        look(raw, u, first, row, largest, least, keys)

    return rank
