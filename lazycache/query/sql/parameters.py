"""Values for the parameters of a query, as DuckDB takes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lazycache.errors import QueryError

Params = Sequence[Any] | Mapping[str, Any]
"""Values for `?` or `$1` (a sequence) or `$name` (a mapping)."""


def plain_parameters(params: Params | None) -> list[Any] | dict[str, Any] | None:
    """Return parameters with numpy's and torch's values as Python's.

    Raises:
        QueryError: neither a sequence nor a mapping of names, or a text that is not Unicode.

    Example:
        >>> import numpy as np
        >>> plain_parameters([np.float32(0.5), np.arange(2), "x"])
        [0.5, [0, 1], 'x']
    """
    if params is None:
        return None
    if isinstance(params, Mapping):
        if not all(isinstance(name, str) for name in params):
            raise QueryError(f"Names of parameters are texts, not {_kinds(params)}.")
        return {name: _plain(value) for name, value in params.items()}
    if isinstance(params, Sequence) and not isinstance(params, str | bytes | bytearray):
        return [_plain(value) for value in params]
    raise QueryError(
        f"Parameters are a list of values for ? or $1, or a dict for $name, not a "
        f"{type(params).__name__}. One value is a list of one: [value]."
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        checked_text(value, what="A parameter")
    elif hasattr(value, "ndim") and hasattr(value, "tolist"):
        if getattr(getattr(value, "dtype", None), "kind", "") in {"M", "m"}:
            return value  # times: DuckDB knows numpy's, and tolist would make numbers of them
        return value.tolist()  # of no dimension: the number itself
    return value


def checked_text(value: str, *, what: str) -> str:
    """Return a text if it is Unicode.

    Raises:
        QueryError: it holds half a character, a lone surrogate.
    """
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise QueryError(f"{what} is not Unicode text: {ascii(value)[:80]}.") from exc
    return value


def _kinds(values: Mapping[Any, Any]) -> str:
    return ", ".join(sorted({type(name).__name__ for name in values}))
