"""An answer as a file: values as they are, not as a page shortens them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from lazycache.errors import QueryError
from lazycache.plain_text import in_json
from lazycache.serve.answering import Answer
from lazycache.serve.cells import plain, values


def csv_text(answer: Answer) -> str:
    """Return a line of names, then a line for each row; vectors are lists of JSON."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(answer.columns)
    for row in _rows(answer):
        writer.writerow([_in_csv(one) for one in row])
    return stream.getvalue()


def _in_csv(value: Any) -> Any:
    if isinstance(value, list | dict):
        return _json(_finite(value))
    return _written(value) if isinstance(value, bytes) else value


def json_text(answer: Answer) -> str:
    """Return a list of objects, one for each row; what is no number in JSON is null.

    Raises:
        QueryError: two columns have one name.
    """
    twice = {name for name in answer.columns if answer.columns.count(name) > 1}
    if twice:
        raise QueryError(
            f"Two columns are called {min(twice)!r}, and an object of JSON has one of a name: "
            "SELECT x AS first."
        )
    lines = (
        _json({name: _finite(one) for name, one in zip(answer.columns, row, strict=True)})
        for row in _rows(answer)
    )
    return "[" + ",\n ".join(lines) + "]\n"


WRITERS: Mapping[str, tuple[Callable[[Answer], str], str]] = MappingProxyType(
    {"csv": (csv_text, "text/csv"), "json": (json_text, "application/json")}
)
"""Ending of the file to what writes it, and its kind."""


def _rows(answer: Answer) -> Iterator[tuple[Any, ...]]:
    for batch in answer.batches:
        columns = map(values, batch.columns)
        yield from zip(*columns, strict=True)


def _finite(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: Any) -> str:
    return in_json(json.dumps(value, default=_other, ensure_ascii=False, allow_nan=False))


def _other(value: Any) -> Any:
    """Return what JSON has for a value that it has no word for."""
    return plain(value) if isinstance(value, Decimal) else _written(value)


def _written(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
