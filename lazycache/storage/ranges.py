"""Byte ranges: merge neighbours into fewer requests, hand the parts back in order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    Results are ordered and more than `max_gap` bytes apart.

    Example:
        >>> coalesce([(100, 110), (0, 8), (12, 20)], max_gap=4)
        [Merged(start=0, stop=20, members=(1, 2)), Merged(start=100, stop=110, members=(0,))]
    """
    assert max_gap >= 0, "a gap is a number of bytes"
    merged: list[Merged] = []
    members: list[int] = []
    start = stop = 0
    order = sorted((i for i, r in enumerate(ranges) if r[0] < r[1]), key=ranges.__getitem__)
    for i in order:
        low, high = ranges[i]
        assert low >= 0, "a range starts at a byte"
        if members and low - stop > max_gap:
            merged.append(Merged(start, stop, tuple(members)))
            members = []
        if not members:
            start, stop = low, high
        members.append(i)
        stop = max(stop, high)
    return [*merged, Merged(start, stop, tuple(members))] if members else merged


def scatter(
    ranges: Sequence[tuple[int, int]], merged: Sequence[Merged], buffers: Sequence[bytes]
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
