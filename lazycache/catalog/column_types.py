"""Types of table columns as the log names them, and the one that holds the values of two. Pure."""

from __future__ import annotations

_INTEGERS = ("bool", "int32", "int64")
_NUMBERS = (*_INTEGERS, "float64")


def widest(a: str, b: str) -> str:
    """Return the type that a column has when one file says `a` and another says `b`.

    Whole numbers widen to `int64`, with fractions to `float64`; anything else becomes `string`.

    Example:
        >>> widest("int64", "int64"), widest("int32", "float64"), widest("bool", "json")
        ('int64', 'float64', 'string')
    """
    if a == b:
        return a
    for ladder, top in ((_INTEGERS, "int64"), (_NUMBERS, "float64")):
        if a in ladder and b in ladder:
            return top
    return "string"
