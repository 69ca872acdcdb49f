"""Formats that hold the same rows, as ways: for stages that do the same with each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.comparing import Kind, Way, absent

OURS = "lazycache"
"""The name of what is ours."""


def way_of(one: Any, action: Callable[[], object], *, limit: type[Any]) -> Way:
    """Return what is done with a format as a way; the format of class `limit` is the limit."""
    kind: Kind = "peer"
    if one.name == OURS:
        kind = "ours"
    elif isinstance(one, limit):
        kind = "limit"
    return Way(one.name, kind, action, note=one.note)


def left_out(formats: Mapping[type[Any], str]) -> list[Way]:
    """Return those of the formats, each with the module that it needs, that are not installed."""
    return [
        Way(kind.name, "peer", None, skipped=absent(needs))
        for kind, needs in formats.items()
        if absent(needs)
    ]
