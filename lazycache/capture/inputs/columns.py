"""User columns and ids of examples: checked and made plain Python values before a batch exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from lazycache.catalog.fields import checked_name
from lazycache.errors import CaptureError, CorruptShardError

Scalar = str | int | float | bool | None
"""What a user column holds per example."""

RESERVED = frozenset(
    {
        "call",
        "decoder_length",
        "example",
        "length",
        "position",
        "row",
        "run",
        "step",
        "token",
        "token_id",
    }
)
"""Columns that lazycache fills itself, in `examples` or in `tokens`."""

MAX_ID = (1 << 63) - 2
"""Largest example id: one more must fit into 64 bits, since ids are counted on from it."""

_INT64 = range(-(1 << 63), 1 << 63)


def check_name(name: str, *, sites: Iterable[str]) -> None:
    """Refuse a column name that the log would not take, or that is taken.

    Raises:
        CaptureError: the name is no printable text of 1 to 500 characters, is lazycache's own, or
            that of a captured site.

    Example:
        >>> check_name("label", sites=["resid_out_0"])
    """
    check_printable(name, what="a column")
    if name in RESERVED:
        raise CaptureError(
            f"A column cannot be named {name!r}: lazycache fills that one. Its own are "
            f"{', '.join(sorted(RESERVED))}."
        )
    if name in set(sites):
        raise CaptureError(
            f"A column cannot be named {name!r}: that is a captured site, which is a column of "
            "the same table. Choose another name."
        )


def check_printable(name: object, *, what: str) -> None:
    """Refuse a name that the log does not take: the same rule, before anything runs.

    Raises:
        CaptureError: not text, empty, too long, or with line breaks and the like.

    Example:
        >>> check_printable("label", what="a column")
    """
    if not isinstance(name, str):
        raise CaptureError(
            f"{name!r:.60} ({type(name).__name__}) cannot name {what}: a name is a str."
        )
    try:
        checked_name(name)
    except CorruptShardError as exc:
        raise CaptureError(
            f"{name!r:.60} cannot name {what}: a name is printable text of 1 to 500 characters."
        ) from exc


def as_mapping(columns: object) -> dict[str, Any]:
    """Return what was given as `columns=` as a dict; None is none.

    Raises:
        CaptureError: it is no mapping.

    Example:
        >>> as_mapping({"label": "x"})
        {'label': 'x'}
    """
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise CaptureError(
            f"columns={columns!r:.60} is a {type(columns).__name__}; a mapping of name to value is "
            "needed: columns={'name': value}. Columns of a corpus are chosen with keep=[...]."
        )
    return dict(columns)


def as_column(name: str, values: object, *, rows: int | None) -> list[Scalar]:
    """Return one plain value per example from a list, an array or a tensor.

    Raises:
        CaptureError: not one value per example, or values that a column cannot hold.

    Example:
        >>> as_column("label", torch.tensor([0, 1]), rows=2)
        [0, 1]
    """
    listed = _listed(name, values)
    if rows is not None and len(listed) != rows:
        raise CaptureError(
            f"Column {name!r} has {len(listed)} values for {rows} examples; one each is needed."
        )
    plain = [as_scalar(name, value) for value in listed]
    _check_one_type(name, plain)
    return plain


def as_scalar(name: str, value: object) -> Scalar:
    """Return a value as a plain str, int, float, bool or None.

    Raises:
        CaptureError: it is none of these.

    Example:
        >>> as_scalar("score", np.float32(0.5))
        0.5
    """
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        value = value.item()
    if value is not None and not isinstance(value, str | int | float):
        raise CaptureError(
            f"Column {name!r} holds a {type(value).__name__}; a column holds str, int, float, "
            "bool or None."
        )
    if isinstance(value, int) and value not in _INT64:
        raise CaptureError(f"Column {name!r} holds {value}, which is beyond 64 bits.")
    return value


def as_ids(values: object) -> list[int]:
    """Return example ids as plain ints.

    Raises:
        CaptureError: not integers, one of them twice, or one that no further id could follow.

    Example:
        >>> as_ids(torch.tensor([4, 2]))
        [4, 2]
    """
    ids: list[int] = []
    for value in _listed("example", values):
        plain = as_scalar("example", value)
        if not isinstance(plain, int) or isinstance(plain, bool):
            raise CaptureError(f"Example ids are ints; {plain!r} is not.")
        if plain > MAX_ID:
            raise CaptureError(f"Example id {plain} is too large; the largest is {MAX_ID}.")
        ids.append(plain)
    repeated = [example for example, times in Counter(ids).items() if times > 1]
    if repeated:
        raise CaptureError(f"Example id {repeated[0]} occurs twice in one batch; ids are unique.")
    return ids


def _listed(name: str, values: object) -> list[Any]:
    if isinstance(values, torch.Tensor | np.ndarray):
        if values.ndim != 1:
            raise CaptureError(
                f"Column {name!r} has shape {tuple(values.shape)}; one value per example is needed."
            )
        listed: list[Any] = values.tolist()
        return listed
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise CaptureError(
            f"{name!r} is {values!r:.60}; a list with one value per example is needed. A value "
            "that all examples share goes into columns= of the capture."
        )
    return list(values)


def _check_one_type(name: str, values: list[Scalar]) -> None:
    types = {type(value) for value in values if value is not None}
    if len(types) > 1 and types != {int, float}:
        found = ", ".join(sorted(kind.__name__ for kind in types))
        raise CaptureError(f"Column {name!r} mixes {found}; a column has one type, or None.")
