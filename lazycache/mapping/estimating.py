"""What a question costs before it is asked, as methods of a cache."""

from __future__ import annotations


class Estimating:
    """What a question costs before it is asked."""

    __slots__ = ()
