"""How large the values of a cache are, as numbers and as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lazycache.cache.values.joining import Lazy
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import StoredSite

Tree = dict[str, Any]
"""Sizes as text by name; of a value that has parts, the tree of these."""

NUMBER_BYTES = 8
"""What a Python number counts, however Python keeps it."""

_KILO = 1000

_NUMBER = re.compile(r"[0-9]+")


def size_text(nbytes: int) -> str:
    """Return a size in decimal units.

    Example:
        >>> size_text(0), size_text(100), size_text(1000), size_text(2_345_678)
        ('0 B', '100 B', '1.00 KB', '2.35 MB')
    """
    if nbytes < _KILO:
        return f"{nbytes} B"
    power = min(4, int(math.log10(nbytes)) // 3)
    return f"{nbytes / _KILO**power:.2f} {' KMGT'[power]}B"


def segments_bytes(segments: Segments) -> int:
    """Return the bytes of the values of a key; of sites those that are stored."""
    return sum(
        part.sites.stored_bytes(part.name) if isinstance(part, StoredSite) else value_bytes(part)
        for part in segments.resolved()
    )


def value_bytes(value: Any) -> int:
    """Return the bytes of a value: its numbers and texts, without what Python adds.

    Example:
        >>> value_bytes({"a": [torch.ones(3), "xy"], "b": (True, None)})
        22
    """
    if isinstance(value, ValueWithInfo):
        return value_bytes(value.value())
    if isinstance(value, torch.Tensor):
        return value.numel() * value.dtype.itemsize
    if isinstance(value, (np.ndarray, *Lazy)):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(value_bytes, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(value_bytes, value))
    return _scalar_bytes(value)


def _scalar_bytes(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)
    return NUMBER_BYTES if isinstance(value, (int, float, complex, np.generic)) else 0


def tree(entries: Mapping[str, Segments]) -> Tree:
    """Return the size of each key; dicts, lists and tuples of tensors as trees themselves."""
    return {key: _of_segments(segments) for key, segments in entries.items()}


def grouped(entries: Mapping[str, Segments]) -> Tree:
    """Return one size for all keys that differ in their numbers only, as `resid_out_*`."""
    groups: dict[str, list[Segments]] = {}
    for key, segments in entries.items():
        groups.setdefault(_NUMBER.sub("*", key), []).append(segments)
    return {name: _of_group(name, members) for name, members in groups.items()}


def _of_group(name: str, members: list[Segments]) -> str | Tree:
    if "*" not in name:
        return _of_segments(members[0])
    items = "1 item" if len(members) == 1 else f"{len(members)} items"
    return f"{size_text(sum(map(segments_bytes, members)))} ({items})"


def _of_segments(segments: Segments) -> str | Tree:
    # what is read from a dataset has no parts to be shown
    if segments.stored:
        return size_text(segments_bytes(segments))
    return _of_value(segments.value())


def _of_value(value: Any) -> str | Tree:
    if isinstance(value, ValueWithInfo):
        return _of_value(value.value())
    if isinstance(value, Mapping):
        return {str(key): _of_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and any(map(_has_parts, value)):
        return {f"[{i}]": _of_value(item) for i, item in enumerate(value)}
    return size_text(value_bytes(value))


def _has_parts(item: Any) -> bool:
    inner = item.value() if isinstance(item, ValueWithInfo) else item
    return isinstance(inner, (torch.Tensor, np.ndarray, *Lazy, Mapping, list, tuple))


def lines(sizes: Tree, indent: str = "") -> Iterator[str]:
    """Yield the lines of a tree as people read it.

    Example:
        >>> list(lines({"a": "4 B", "b": {"mean": "8 B"}}))
        ['├── a: 4 B', '└── b', '    └── mean: 8 B']
    """
    for left, (name, size) in zip(range(len(sizes) - 1, -1, -1), sizes.items(), strict=True):
        branch, below = ("├── ", "│   ") if left else ("└── ", "    ")
        if isinstance(size, str):
            yield f"{indent}{branch}{name}: {size}"
        else:
            yield f"{indent}{branch}{name}"
            yield from lines(size, indent + below)
