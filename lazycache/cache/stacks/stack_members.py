"""What a stack is made of: tensors of one shape, whose rows are those of the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch

from lazycache.cache.computing.row_spaces import check_aligned
from lazycache.cache.joined.memory_reader import from_tensor
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.cache.values.joining import Lazy
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.errors import SelectionError

Member = LazyTensor | RaggedTensor
"""One layer of a stack."""


def members_of(values: Mapping[str, Any]) -> tuple[Member, ...]:
    """Return values as lazy tensors of one shape, rows and dtype. Reads nothing.

    Raises:
        SelectionError: a value is no tensor, or two of them differ; names them.
    """
    members = {name: _lazy(name, value) for name, value in values.items()}
    if not members:
        raise SelectionError("a stack has a layer at least: name some, stack('resid_out_*').")
    first, *others = members
    for name in others:
        _check_same(first, members[first], name, members[name])
    return _of_one_dtype(tuple(members.values()))


def sizes_of(x: Member) -> tuple[int | None, ...]:
    """Return the shape as far as it is known without reading: None for the keys of patterns."""
    if isinstance(x, LazyTensor):
        return tuple(x.shape)
    chosen = x.selection
    sizes = (len(chosen.numbers), chosen.heads.size, int(chosen.lengths.max(initial=0)), None)
    return tuple(n for n, gone in zip(sizes, chosen.removed, strict=True) if not gone)


def _lazy(name: str, value: Any) -> Member:
    if isinstance(value, ValueWithInfo):
        value = value.value()
    if isinstance(value, Lazy):
        return value
    if not isinstance(value, torch.Tensor):
        raise SelectionError(f"{name!r} is a {type(value).__name__}: only tensors can be stacked.")
    return from_tensor(value)


def _check_same(first: str, x: Member, name: str, y: Member) -> None:
    """Refuse two members that are no layers of one thing."""
    both = f"{first!r} and {name!r} cannot be stacked"
    if type(x) is not type(y):
        raise SelectionError(f"{both}: one of them is an attention pattern, the other is not.")
    if sizes_of(x) != sizes_of(y):
        shapes = " and ".join(str([*map(_said, sizes_of(one))]) for one in (x, y))
        raise SelectionError(f"{both}: their shapes are {shapes}.")
    tables = [one.source.spec.table for one in (x, y)]
    if tables[0] != tables[1]:
        raise SelectionError(f"{both}: rows of one are {tables[0]}, of the other {tables[1]}.")
    try:
        _check_rows(x, y)
    except SelectionError as exc:
        raise SelectionError(f"{both}: {exc}") from exc


def _check_rows(x: Member, y: Member) -> None:
    if isinstance(x, LazyTensor) and isinstance(y, LazyTensor):
        check_aligned(x, y)
        return
    assert isinstance(x, RaggedTensor), "both are"
    assert isinstance(y, RaggedTensor), "both are"
    if (x.selection.lengths != y.selection.lengths).any():
        raise SelectionError("their examples differ in length.")


def _said(size: int | None) -> int | str:
    return "keys" if size is None else size


def _of_one_dtype(members: Sequence[Member]) -> tuple[Member, ...]:
    """Convert members to the dtype that holds all of them, as torch.stack does."""
    if all(member.dtype == members[0].dtype for member in members):
        return tuple(members)
    try:
        dtype = reduce(torch.promote_types, (member.dtype for member in members))
    except RuntimeError as exc:
        named = ", ".join(sorted({str(member.dtype) for member in members}))
        raise SelectionError(f"no dtype holds all of {named}: stack them by dtype.") from exc
    return tuple(m if m.dtype == dtype else m.to(dtype) for m in members)
