"""Vectors and sites that are alike, as methods of a cache."""

from __future__ import annotations


class Comparing:
    """Vectors and sites that are alike."""

    __slots__ = ()
