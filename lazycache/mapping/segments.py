"""What a cache keeps under one key: the values that were put there, joined when they are read.

`cat` appends and copies nothing, so joining n caches costs n steps. The first read concatenates and
keeps the result. The parts are then views of it: there is one copy in memory, and the borders
between them stay known, so that reading changes nothing about what a later `cat` gives.
"""

from __future__ import annotations

import copy
import functools
import itertools
import threading
from collections.abc import Sequence
from typing import Any, Self

import torch

from lazycache.cache.values.described import dtype_name
from lazycache.cache.values.joining import Lazy, concatenable, joined
from lazycache.cache.values.moving import converted
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.mapping.stored_parts import StoredEntry, StoredSite, read

_JOINING = threading.RLock()
"""Held while parts become one: two readers shall not each make a copy."""

NO_INFO = object()
"""What a key without info has."""

UNREAD = object()
"""What a key has whose parts were not joined yet."""


class Segments:
    """The parts of one key, in order."""

    __slots__ = ("_has_entries", "_info", "_parts", "_whole", "site_since")

    def __init__(
        self,
        parts: Sequence[Any],
        *,
        info: Any = NO_INFO,
        whole: Any = UNREAD,
        site_since: int = 0,
    ) -> None:
        self._parts = list(parts)
        self._info = info
        self._whole = whole
        self.site_since = site_since
        """Version since which the dataset has this value as a site; 0: it has not."""
        # looked for once: `cat` asks each time, and parts may be many
        self._has_entries = any(isinstance(part, StoredEntry) for part in self._parts)

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return those of one value. One with info gives its info to the key."""
        if isinstance(value, ValueWithInfo):
            return cls([value.value()], info=value.info(), whole=value)
        return cls([value])

    @property
    def parts(self) -> Sequence[Any]:
        """What was put here, without info. Not to be changed."""
        return self._parts

    @property
    def stored(self) -> list[StoredSite]:
        """The parts that are sites of datasets."""
        return [part for part in self._parts if isinstance(part, StoredSite)]

    @property
    def is_stored(self) -> bool:
        """Whether all parts are."""
        return all(isinstance(part, StoredSite) for part in self._parts)

    def resolved(self) -> list[Any]:
        """Return the parts, after reading values of datasets that are no sites. No copy."""
        if self._has_entries:
            with _JOINING:
                known = [self._whole] if len(self._parts) == 1 else []
                values = [v for v in known if v is not UNREAD] or list(map(read, self._parts))
                self._take_info(values)
                self._parts = list(map(_inner, values))
                self._has_entries = False
        return self._parts

    def _take_info(self, values: Sequence[Any]) -> None:
        noted = (value.info() for value in values if isinstance(value, ValueWithInfo))
        if not self.has_info:
            self._info = next(noted, NO_INFO)

    def pending_shape(self) -> str | None:
        """Return shape and dtype of tensors that reading would concatenate; None of all else."""
        parts = self._parts
        waits = self._whole is UNREAD and len(parts) > 1 and all(map(_is_plain, parts))
        if not waits or not concatenable(parts):
            return None
        shape = [sum(map(_rows, parts)), *parts[0].shape[1:]]
        return f"{shape} {dtype_name(_common_dtype(parts))}{', with info' * self.has_info}"

    @property
    def has_info(self) -> bool:
        """Whether the key has info."""
        return self._info is not NO_INFO

    def value(self) -> Any:
        """Return the one value that the parts are.

        Cost: the first time, one copy of parts in memory (which are let go as it proceeds, so it
        needs the memory of one part more); later none. Sites are not read.
        """
        if self._whole is not UNREAD:
            return self._whole
        if len(self._parts) == 1:
            return self._single(self._parts[0])
        with _JOINING:
            return self._join() if self._whole is UNREAD else self._whole

    def _join(self) -> Any:
        whole = self._one()
        self._whole = ValueWithInfo(whole, self._info) if self.has_info else whole
        return self._whole

    def _single(self, part: Any) -> Any:
        whole = read(part)
        if self.has_info:
            whole = ValueWithInfo(whole, self._info)
        # a site is looked up anew, as cheaply as it is kept
        if isinstance(part, StoredSite):
            return whole
        with _JOINING:
            # of threads that read it at once, all get what the first one read
            if self._whole is UNREAD:
                self._whole = whole
        return self._whole

    def _one(self) -> Any:
        if all(map(_is_plain, self.resolved())) and concatenable(self._parts):
            return _gathered(self._parts)
        whole = joined(list(map(read, self._parts)))
        if isinstance(whole, list):
            self._parts = [whole]
        elif not isinstance(whole, Lazy) and len({part.dtype for part in self._parts}) == 1:
            self._parts = _cut(whole, self._parts)
        return whole

    def extend(self, other: Segments) -> None:
        """Put the parts of another key behind these, in O(1) for each."""
        self.resolved()
        self._parts.extend(list(other.resolved()))
        if not self.has_info:
            self._info = other._info
        self._whole = UNREAD
        self.site_since = 0

    def copy(self) -> Segments:
        """Return the same parts, to be extended on their own."""
        return Segments(self._parts, info=self._info, whole=self._whole, site_since=self.site_since)

    def with_parts(self, parts: Sequence[Any]) -> Segments:
        """Return other parts with the same info."""
        return Segments(parts, info=self._info, site_since=self.site_since)

    def converted(self, dtype: torch.dtype | None, device: torch.device | None) -> Segments:
        """Return them moved or converted; see `ActivationCache.to`."""
        with _JOINING:
            if len(self._parts) > 1 and _is_plain(_inner(self._whole)):
                # the whole is what is converted, so that the parts stay views of one
                whole = converted(self._whole, dtype, device)
                return Segments(_cut(_inner(whole), self._parts), info=self._info, whole=whole)
            parts = [_moved(part, dtype, device) for part in self.resolved()]
            return Segments(parts, info=self._info)

    def deep_copy(self, memo: dict[int, Any]) -> Segments:
        """Return copies of what is in memory; sites stay those of their datasets."""
        if not self.stored:
            return Segments.of(copy.deepcopy(self.value(), memo))
        parts = [p if isinstance(p, StoredSite) else copy.deepcopy(p, memo) for p in self._parts]
        info = copy.deepcopy(self._info, memo) if self.has_info else NO_INFO
        return Segments(parts, info=info)

    def __reduce__(self) -> tuple[Any, ...]:
        # in memory as one value: parts that are views would each take the whole with them
        as_stored = self._has_entries and (self._whole is UNREAD or isinstance(self._whole, Lazy))
        parts = self._parts if self.stored or as_stored else [self.value()]
        info = (self._info,) if self.has_info and self.stored else ()
        return _rebuilt, (parts, info)


def _rebuilt(parts: list[Any], info: tuple[Any, ...]) -> Segments:
    if len(parts) == 1 and not info:
        return Segments.of(parts[0])
    return Segments(parts, info=info[0] if info else NO_INFO)


def _moved(part: Any, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    if isinstance(part, StoredSite):
        return part.moved(dtype, device)
    return converted(part, dtype, device)


def _inner(value: Any) -> Any:
    return value.value() if isinstance(value, ValueWithInfo) else value


def _is_plain(part: Any) -> bool:
    """Whether it is a tensor that has no graph and no class of its own to be kept."""
    return type(part) is torch.Tensor and not part.requires_grad


def _gathered(parts: list[torch.Tensor]) -> torch.Tensor:
    """Concatenate, letting go of each part as soon as it is copied; views take their places.

    Memory of a fresh tensor is taken as it is filled, so the peak is the sum of the parts and one.
    """
    rows, dtype = sum(map(_rows, parts)), _common_dtype(parts)
    alike = all(part.dtype == dtype for part in parts)
    whole = torch.empty((rows, *parts[0].shape[1:]), dtype=dtype, device=parts[0].device)
    stop = 0
    for i, part in enumerate(parts):
        start, stop = stop, stop + _rows(part)
        whole[start:stop] = part
        if alike:
            parts[i] = whole[start:stop] if part.ndim else whole[start]
    return whole


def _common_dtype(parts: Sequence[torch.Tensor]) -> torch.dtype:
    return functools.reduce(torch.promote_types, {part.dtype for part in parts})


def _rows(part: Any) -> int:
    return len(part) if part.ndim else 1


def _cut(whole: Any, like: Sequence[Any]) -> list[Any]:
    """Return the pieces of a concatenated tensor or array: views, as long as what it came from."""
    stops = list(itertools.accumulate(map(_rows, like)))
    starts = [0, *stops[:-1]]
    return [
        whole[start:stop] if part.ndim else whole[start]
        for start, stop, part in zip(starts, stops, like, strict=True)
    ]
