"""How values are distributed, and how two caches differ, as methods of a cache."""

from __future__ import annotations


class Describing:
    """How values are distributed, and how two caches differ."""

    __slots__ = ()
