"""Byte ranges: merge neighbours into fewer requests, hand the parts back in order. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

MAX_GAP = 1 << 20
"""Bytes between two ranges up to which one request for both beats two: a store far away takes about
as long to answer as to send so many."""

MAX_WASTE = 64 << 20
"""Bytes of gaps in one request: what a read may take of memory beside its values."""


@dataclass(frozen=True, slots=True)
class Merged:
    """One request that serves several of the ranges that were asked for."""

    start: int
    """First byte."""
    stop: int
    """Byte after the last."""
    members: tuple[int, ...]
    """Places of the ranges it serves in what was asked, in order of their start."""


def coalesce(ranges: Sequence[tuple[int, int]], *, max_gap: int) -> list[Merged]:
    """Merge `(start, stop)` ranges of one object that overlap or lie at most `max_gap` apart.

    The ranges may come in any order and repeat. Empty ranges need no bytes and are in no result.
    Results are ordered. Two of them lie more than `max_gap` bytes apart, or would hold more than
    `MAX_WASTE` bytes together that nobody asked for.

    Example:
        >>> coalesce([(100, 110), (0, 8), (12, 20)], max_gap=4)
        [Merged(start=0, stop=20, members=(1, 2)), Merged(start=100, stop=110, members=(0,))]
    """
    assert max_gap >= 0, "a gap is a number of bytes"
    merged: list[Merged] = []
    members: list[int] = []
    start = stop = waste = 0
    order = sorted((i for i, r in enumerate(ranges) if r[0] < r[1]), key=ranges.__getitem__)
    for i in order:
        low, high = ranges[i]
        assert low >= 0, "a range starts at a byte"
        gap = max(0, low - stop)
        if members and (gap > max_gap or waste + gap > MAX_WASTE):
            merged.append(Merged(start, stop, tuple(members)))
            members = []
        if not members:
            start, stop, waste, gap = low, high, 0, 0
        waste += gap
        members.append(i)
        stop = max(stop, high)
    return [*merged, Merged(start, stop, tuple(members))] if members else merged


def bridged(gaps: np.ndarray, *, max_gap: int) -> np.ndarray:
    """Return which gaps between ranges in order `coalesce` bridges: bool[n].

    Gaps, int64[n], are those between neighbours; one that is never bridged is given as a negative
    number.

    Example:
        >>> bridged(np.array([4, 100, 0, -1]), max_gap=8).tolist()
        [True, False, True, False]
    """
    near: np.ndarray = (gaps >= 0) & (gaps <= max_gap)
    if int(gaps[near].sum()) <= MAX_WASTE:
        return near
    waste = 0
    for i, gap in enumerate(gaps.tolist()):
        waste = waste + gap if near[i] else 0
        if waste > MAX_WASTE:
            near[i], waste = False, 0
    return near


def batches(merged: Sequence[Merged], *, nbytes: int) -> Iterator[list[Merged]]:
    """Yield as many requests at a time as have so many bytes together, or one that has more.

    Example:
        >>> asked = coalesce([(0, 4), (10, 14), (20, 40)], max_gap=0)
        >>> [len(some) for some in batches(asked, nbytes=8)]
        [2, 1]
    """
    some: list[Merged] = []
    total = 0
    for one in merged:
        size = one.stop - one.start
        if some and total + size > nbytes:
            yield some
            some, total = [], 0
        some.append(one)
        total += size
    if some:
        yield some


def scatter(
    ranges: Sequence[tuple[int, int]],
    merged: Sequence[Merged],
    buffers: Sequence[bytes | memoryview],
) -> list[memoryview]:
    """Cut what `merged` fetched back into the `ranges` that were asked for, in their order.

    `buffers[i]` holds the bytes of `merged[i]`. Nothing is copied: the parts are views.

    Example:
        >>> asked = [(4, 6), (0, 2), (9, 9)]
        >>> [bytes(part) for part in scatter(asked, coalesce(asked, max_gap=8), [b"abcdef"])]
        [b'ef', b'ab', b'']
    """
    parts = [memoryview(b"")] * len(ranges)
    for piece, buffer in zip(merged, buffers, strict=True):
        view = memoryview(buffer)
        for i in piece.members:
            low, high = ranges[i]
            parts[i] = view[low - piece.start : high - piece.start]
    return parts
