"""Fields of parsed JSON, each checked as it is taken out. Pure.

Every function raises `CorruptShardError` with what is wrong; the caller adds in which record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lazycache.errors import CorruptShardError
from lazycache.storage.layout import check_path

_LIMIT = 1 << 63  # what an int64 holds: sizes and rows go into numpy arrays
_NAME_CHARS = 500
_SURROGATES = re.compile("[\ud800-\udfff]")


def mapping(value: Any) -> dict[str, Any]:
    """Return `value` if it is a JSON object."""
    if type(value) is not dict:
        raise CorruptShardError(f"an object was expected, not {_short(value)}")
    return value


def sequence(entry: Mapping[str, Any], key: str) -> list[Any]:
    """Return the list that is at `key`."""
    value = entry.get(key)
    if type(value) is not list:
        raise CorruptShardError(f"{key} must be a list, not {_short(value)}")
    return value


def text(entry: Mapping[str, Any], key: str) -> str:
    """Return the string that is at `key`."""
    value = entry.get(key)
    if type(value) is not str:
        raise CorruptShardError(f"{key} must be a string, not {_short(value)}")
    if not value.isascii() and _SURROGATES.search(value):  # JSON can hold half a character
        raise CorruptShardError(f"{key} is not Unicode text: {_short(value)}")
    return value


def name(entry: Mapping[str, Any], key: str) -> str:
    """Return the name that is at `key`."""
    return checked_name(text(entry, key))


@lru_cache(maxsize=4096)  # a log repeats the same few names thousands of times
def checked_name(value: str) -> str:
    """Return `value` if it is a name: printable, not empty, at most 500 characters."""
    if not 0 < len(value) <= _NAME_CHARS or not value.isprintable():
        raise CorruptShardError(f"not a name: {_short(value)}")
    return value


def path(entry: Mapping[str, Any]) -> str:
    """Return the path of an entry if it stays inside the dataset."""
    return check_path(text(entry, "path"))


def integer(entry: Mapping[str, Any], key: str) -> int:
    """Return the integer that is at `key`: at least 0, below 2**63."""
    value = entry.get(key)
    if type(value) is not int or not 0 <= value < _LIMIT:  # bool is an int to isinstance
        raise CorruptShardError(f"{key} must be an integer from 0, not {_short(value)}")
    return value


def integers(value: Any) -> tuple[int, ...]:
    """Return a list of integers as a tuple: each at least 0, below 2**63."""
    if type(value) is list:
        for item in value:
            if type(item) is not int or not 0 <= item < _LIMIT:
                break
        else:
            return tuple(value)
    raise CorruptShardError(f"a list of integers from 0 was expected, not {_short(value)}")


def shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a row: integers from 0, and -1 for a width that every row has its own."""
    if type(value) is list and value.count(-1) == 1:
        at = value.index(-1)
        if type(value[at]) is not int:  # -1.0 is equal to -1
            raise CorruptShardError(f"a shape was expected, not {_short(value)}")
        return (*integers(value[:at]), -1, *integers(value[at + 1 :]))
    return integers(value)


def _short(value: Any) -> str:
    """Return enough of a value to find it."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."  # noqa: PLR2004 - one line of an error
