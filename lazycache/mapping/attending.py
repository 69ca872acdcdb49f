"""What attends to what, and what writes a direction, as methods of a cache."""

from __future__ import annotations


class Attending:
    """What attends to what, and what writes a direction."""

    __slots__ = ()
