"""Units and what the tables say of their rows, as methods of a cache."""

from __future__ import annotations


class Relating:
    """Units and what the tables say of their rows."""

    __slots__ = ()
