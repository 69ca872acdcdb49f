"""Values for the parameters of a query, as DuckDB takes them, and those that are vectors. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError

Params = Sequence[Any] | Mapping[str, Any]
"""Values for `?` or `$1` (a sequence) or `$name` (a mapping)."""

Values = list[Any] | dict[str, Any] | None
"""The same, changed by nobody else: numbers of Python, and vectors as tensors of our own."""


def plain_parameters(params: Params | None) -> Values:
    """Return parameters with numpy's and torch's numbers as Python's, their arrays as tensors.

    An array is copied: the query may run, and run again, when the caller has changed it. A lazy
    tensor is loaded.

    Raises:
        QueryError: neither a sequence nor a mapping of names, or a text that is not Unicode.

    Example:
        >>> plain_parameters([np.float32(0.5), np.arange(2), "x"])
        [0.5, tensor([0, 1]), 'x']
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


def duckdb_parameters(values: Values, *, without: Collection[str] = ()) -> Values:
    """Return parameters as DuckDB takes them: tensors as lists of Python's numbers.

    Those that are named in `without` (`1` for the first of a sequence) are left out.

    Example:
        >>> duckdb_parameters([torch.tensor([0.5]), 3]), duckdb_parameters([7, 8], without=["1"])
        ([[0.5], 3], {'2': 8})
    """
    if isinstance(values, list) and not without:
        return [_listed(value) for value in values]
    left = {name: _listed(one) for name, one in by_name(values).items() if name not in without}
    return None if values is None else left


def by_name(values: Values) -> Mapping[str, Any]:
    """Return parameters by the name that a parsed query has for them: `1` for the first `?`."""
    if isinstance(values, list):
        return {str(number): value for number, value in enumerate(values, start=1)}
    return values or {}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        checked_text(value, what="A parameter")
    elif isinstance(value, LazyTensor):
        return _plain(value.load())
    elif hasattr(value, "ndim") and hasattr(value, "tolist"):
        return _array(value)
    elif isinstance(value, list | tuple):
        return list(value)
    return value


def _array(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and (value.is_meta or value.layout != torch.strided):
        kind = "meta" if value.is_meta else str(value.layout).removeprefix("torch.")
        raise QueryError(f"A {kind} tensor is no parameter: hand over a dense one, x.to_dense().")
    if isinstance(value, torch.Tensor) and value.ndim:
        return value.detach().to("cpu", copy=True)
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in {"M", "m"}:
        return value  # times: DuckDB knows numpy's, and tolist would make numbers of them
    if isinstance(value, np.ndarray) and value.ndim and kind in {"b", "i", "u", "f"}:
        return _tensor(value)
    return value.tolist()  # of no dimension: the number itself


def _tensor(value: np.ndarray) -> Any:
    copied = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
    try:
        return torch.from_numpy(copied)
    except TypeError:  # numbers that torch has not, such as longdouble
        return copied.tolist()


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor) else value


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
