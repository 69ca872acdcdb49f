"""Some items of a corpus that stand for all of them, for a dry run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from lazycache.errors import CaptureError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Items of a corpus."""

    items: list[Any]
    """In corpus order."""
    total: int | None
    """Items that the corpus has; None if nobody knows."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all there is."""
        return self.total == len(self.items)


def take_sample(data: Iterable[Any], *, most: int) -> Sample:
    """Take at most so many items: spread evenly where items can be asked for, else the first ones.

    Raises:
        CaptureError: a generator, which could not be read a second time.

    Example:
        >>> sample = take_sample(list(range(100)), most=4)
        >>> sample.items, sample.total, sample.is_whole
        ([0, 25, 50, 75], 100, False)
    """
    if isinstance(data, Iterator):
        raise CaptureError(
            f"A dry run would use up this {type(data).__name__}, which can be read once. Give a "
            "list, or an object that can be iterated again."
        )
    total = len(data) if isinstance(data, Sized) else None
    if total is not None and total > most and _can_be_asked(data):
        return Sample([data[i * total // most] for i in range(most)], total)  # type: ignore[index]
    items = list(islice(data, most + 1))
    if len(items) <= most:
        return Sample(items, len(items))
    return Sample(items[:most], total)


def _can_be_asked(data: object) -> bool:
    """Whether items can be had by number, in any order."""
    return hasattr(data, "__getitem__") and not isinstance(data, Mapping)


def spread(values: Sequence[T], count: int) -> list[T]:
    """Return `count` of the values, evenly spaced, the first and the last among them.

    Example:
        >>> spread([1, 2, 3, 4, 5], 3), spread([1, 2], 3)
        ([1, 3, 5], [1, 2])
    """
    if len(values) <= count:
        return list(values)
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
