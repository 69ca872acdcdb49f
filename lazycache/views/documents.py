"""What a command found as JSON: one document, or an object a line."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from lazycache.plain_text import in_json


def print_document(value: Any) -> None:
    """Print one JSON document, indented: a report, or a mapping."""
    print_json(value, indent=2)


def print_lines(values: Iterable[Any]) -> None:
    """Print an object a line."""
    for value in values:
        print_json(value)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON that any reader takes, and that a terminal does not obey."""
    sys.stdout.write(to_json(value, indent=indent) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    r"""Return a value as JSON; NaN and infinities, which JSON has not, are null.

    Dataclasses are objects of their fields; what is neither is its text.

    Example:
        >>> to_json({"a": [0.5, float("nan")], "b": "\x1b"})
        '{"a": [0.5, null], "b": "\\u001b"}'
    """
    try:
        text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:  # looked at closely only if there is one: rows may be long
        text = json.dumps(_finite(value), default=str, ensure_ascii=False, indent=indent)
    return in_json(text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dict(_fields(value))
    return str(value)


def _fields(value: Any) -> Iterable[tuple[str, Any]]:
    return ((one.name, getattr(value, one.name)) for one in dataclasses.fields(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: _finite(one) for key, one in _fields(value)}
    return value
