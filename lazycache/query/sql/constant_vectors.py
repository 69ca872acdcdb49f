"""Vectors that a query says once: parameters and literal lists. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import torch

from lazycache.errors import QueryError
from lazycache.query.sql.scope import Node

_LISTS = frozenset({"list_value", "array_value"})
_WIDTHS = {"FLOAT": torch.float32, "REAL": torch.float32, "DOUBLE": torch.float64}


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that a query says once."""

    value: Any
    """A tensor, a number, a list of numbers, or anything else that is a parameter."""
    said: str
    """How the query says it, for messages."""
    parameter: str | None = None
    """The parameter that it is; None of a literal."""

    def whole_number(self) -> int | None:
        """Return it as an integer; None if it is none."""
        known = isinstance(self.value, int) and not isinstance(self.value, bool)
        return self.value if known else None

    def vector(self) -> torch.Tensor | None:
        """Return it as a tensor of numbers; None if it is no vector, or has unknown numbers."""
        if isinstance(self.value, torch.Tensor):
            return None if self.value.is_complex() else self.value
        if not isinstance(self.value, list | tuple):
            return None
        try:
            return torch.tensor(_numbers(self.value), dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, OverflowError):
            return None  # texts, NULLs, lists of different lengths: DuckDB's to judge


def constant(expression: Node, params: Mapping[str, Any]) -> Constant | None:
    """Return what an expression says if that needs no row: a parameter or a literal list."""
    if expression["class"] == "PARAMETER":
        name = expression["identifier"]
        if name not in params:
            return None
        said = "?" if name.isdecimal() else f"${name}"
        return Constant(params[name], said, name)
    value = _literal(expression)
    return None if value is None else Constant(value, "the list")


def fitted(vector: torch.Tensor, shape: tuple[int, ...], *, asked: str, what: str) -> torch.Tensor:
    """Return a vector for rows of a shape, one number for each unit.

    It has that shape, also behind dimensions of one, or is as long as the units are many.

    Raises:
        QueryError: it does not fit.

    Example:
        >>> fitted(torch.ones(1, 3), (3,), asked="dot(x, $v)", what="a row of x").tolist()
        [1.0, 1.0, 1.0]
    """
    trimmed = vector
    while trimmed.ndim > max(1, len(shape)) and trimmed.shape[0] == 1:
        trimmed = trimmed[0]
    if tuple(trimmed.shape) not in {shape, (math.prod(shape),)}:
        size = f"the shape {list(vector.shape)}" if vector.ndim > 1 else f"{len(vector)} numbers"
        units = f"the shape {list(shape)}" if len(shape) > 1 else f"{math.prod(shape)} units"
        raise QueryError(f"{asked}: the vector has {size}, but {what} has {units}.")
    return trimmed.reshape(-1)


def _numbers(values: Sequence[Any]) -> list[Any]:
    return [
        _numbers(value) if isinstance(value, list | tuple) else _number(value) for value in values
    ]


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor) or hasattr(value, "item"):
        value = value.item()  # one number of numpy or torch
    if not isinstance(value, bool | int | float | Decimal):
        raise TypeError
    return float(value)


def _literal(expression: Node) -> Any:
    """Return a number or list of numbers that is written out; None for everything else."""
    if expression["class"] == "CONSTANT":
        return _literal_number(expression["literal"])
    if expression["class"] == "CAST" and not expression["try_cast"]:
        return _cast(_literal(expression["child"]), expression["type_expr"])
    if expression["class"] != "FUNCTION" or expression["function_name"].lower() not in _LISTS:
        return None
    values = [_literal(argument["expression"]) for argument in expression["arguments"]]
    return None if any(value is None for value in values) else values


def _literal_number(literal: Node) -> int | float | None:
    if literal["kind"] not in {"INTEGER", "NUMERIC"}:
        return None
    try:
        return int(literal["text"]) if literal["kind"] == "INTEGER" else float(literal["text"])
    except ValueError:  # in hexadecimal, say
        return None


def _cast(value: Any, kind: Node) -> Any:
    """Return a literal as FLOAT or DOUBLE, or a list of these; None if it cannot be."""
    name, inside = kind["type_name"].upper(), kind["children"]
    if name in {"ARRAY", "LIST"} and isinstance(value, list):
        if name == "ARRAY" and _literal(inside[1]) != len(value):
            return None
        values = [_cast(one, inside[0]) for one in value]
        return None if any(one is None for one in values) else values
    if name not in _WIDTHS or not isinstance(value, int | float):
        return None
    found = float(torch.tensor(value, dtype=_WIDTHS[name], device="cpu"))
    return found if math.isfinite(found) else None
