"""Text of others, made harmless to look at. Pure.

A terminal obeys what is printed on it, and some characters turn the direction of those around them.
Tokens, provenance and what other libraries say of either can hold anything.
"""

from __future__ import annotations

import re

_ORDERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff]"
)
_PIECE = re.compile(r"[\n\t]")


def in_lines(text: str) -> str:
    r"""Return text with control characters, marks of direction and half characters spelled out.

    Ends of lines and tabs stay.

    Example:
        >>> in_lines("a\n\x1b[2Jb\u202e")
        'a\n\\x1b[2Jb\\u202e'
    """
    return _ORDERS.sub(_spelled, text)


def in_one_line(text: str) -> str:
    r"""Return the same with ends of lines and tabs spelled out too.

    Example:
        >>> in_one_line("a\n\x1b[2Jb")
        'a\\n\\x1b[2Jb'
    """
    return _PIECE.sub(_spelled, in_lines(text))


def in_json(text: str) -> str:
    r"""Return JSON that means the same, with the same characters as JSON escapes them.

    Example:
        >>> in_json('{"a": "\x9b"}')
        '{"a": "\\u009b"}'
    """
    return _ORDERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _spelled(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1]
