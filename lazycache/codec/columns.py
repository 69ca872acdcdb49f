"""Python values, numpy arrays and tensors to Arrow columns of a few plain types, losslessly.

A column of a table has one type for the whole dataset. Which one is told by its first values; later
values must fit it exactly. None is allowed anywhere and becomes NULL.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lazycache.errors import CaptureError

ARROW_TYPES: Mapping[str, pa.DataType] = {
    "int64": pa.int64(),
    "int32": pa.int32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "json": pa.string(),
}
"""Column types by the names that the log uses."""

_FITS: Mapping[str, frozenset[str]] = {
    "int64": frozenset({"int64", "int32"}),
    "int32": frozenset({"int64", "int32"}),  # if the numbers are small enough: checked
    "float64": frozenset({"float64", "int64", "int32"}),  # if exact: checked
}
"""What each type also takes."""

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bool, np.bool_), "bool"),  # before int: a bool is one
    ((int, np.integer), "int64"),
    ((float, np.floating), "float64"),
    (str, "string"),
    (bytes, "binary"),
    ((dict, list, tuple), "json"),
)

Values = np.ndarray | torch.Tensor | Sequence[Any]
"""What a user may give as a column."""


def column_type(values: Values) -> str | None:
    """Return the type that values have by themselves; None if there are no values but None.

    Raises:
        CaptureError: the values have no common type that a column can have.

    Example:
        >>> column_type([1, None]), column_type(["a"]), column_type([1, 2.5]), column_type([None])
        ('int64', 'string', 'float64', None)
    """
    plain = _plain(values)
    if isinstance(plain, np.ndarray):
        return _array_type(plain)
    kinds = {_kind(value) for value in plain if value is not None}
    if kinds == {"int64", "float64"}:
        return "float64"
    if "json" in kinds:
        return "json"
    if len(kinds) > 1:
        raise CaptureError(f"values of several types ({', '.join(sorted(kinds))}): use one")
    return kinds.pop() if kinds else None


def to_array(values: Values, kind: str) -> pa.Array:
    """Return values as an Arrow array of a column type.

    Cost: a numpy array of that type without None is not copied.

    Raises:
        CaptureError: a value does not fit the type exactly.

    Example:
        >>> to_array([1, None], "float64").to_pylist()
        [1.0, None]
        >>> to_array([{"a": 1}], "json").to_pylist()
        ['{"a":1}']
    """
    found = "json" if kind == "json" else column_type(values)  # which takes a mixture, too
    if found is not None and found != kind and found not in _FITS.get(kind, ()):
        raise CaptureError(f"{found} values in a column that is {kind}: convert them first")
    try:
        return _array(_plain(values), kind)
    except (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError) as exc:
        raise CaptureError(f"values do not fit the column type {kind}: {exc}") from exc


def _array(values: np.ndarray | Sequence[Any], kind: str) -> pa.Array:
    if kind == "json":
        return pa.array([_json(value) for value in values], pa.string())
    if isinstance(values, np.ndarray):
        array = pa.array(values)
        return array if array.type == ARROW_TYPES[kind] else array.cast(ARROW_TYPES[kind])
    return pa.array(values, ARROW_TYPES[kind])


def _plain(values: Values) -> np.ndarray | Sequence[Any]:
    """Return a 1-D numpy array of a simple dtype, or a sequence of Python values."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    if isinstance(values, np.ndarray) and (values.ndim != 1 or values.dtype.kind not in "biuf"):
        return values.tolist() if values.ndim else [values.item()]
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return values.astype(np.float64, copy=False)
    return values


def _array_type(values: np.ndarray) -> str:
    if values.dtype.kind in "bf":
        return "bool" if values.dtype.kind == "b" else "float64"
    return "int32" if values.dtype == np.int32 else "int64"


def _kind(value: Any) -> str:
    for types, kind in _KINDS:
        if isinstance(value, types):
            return kind
    raise CaptureError(
        f"a value of type {type(value).__name__}: columns hold numbers, bools, strings, bytes, "
        "or dicts and lists of these (stored as JSON)"
    )


def _json(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
