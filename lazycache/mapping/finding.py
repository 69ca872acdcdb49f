"""Rows that are found: by a unit, by a direction, by a score, as methods of a cache."""

from __future__ import annotations


class Finding:
    """Rows that are found: by a unit, by a direction, by a score."""

    __slots__ = ()
