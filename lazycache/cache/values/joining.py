"""How values of one key become one: what `cat` does where no strategy was registered.

Nothing is added up, dropped, broadcast or rounded. What does not fit together is kept one by one in
a list; what cannot belong to one key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lazycache.cache.joined.join import join
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.cache.values.value_with_info import ValueWithInfo

Lazy = (LazyTensor, RaggedTensor)
"""Values that are read when they are used."""


class Unread:
    """A tensor of a dataset that was not looked up yet."""

    __slots__ = ()


_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_INTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_COMPLEX = (torch.complex64, torch.complex128)

_KINDS: tuple[tuple[str, Any], ...] = (
    ("tensor", (torch.Tensor, *Lazy, Unread)),
    ("array", np.ndarray),
    ("string", str),
    ("bytes", bytes),
    ("number", (bool, int, float, complex, np.generic)),
    ("tuple", tuple),
    ("list", list),
    ("dict", Mapping),
)

_SCALARS = ("number", "string", "bytes", "none")


def kind(value: Any) -> str:
    """Return the kind of a value: values of one kind belong together.

    Example:
        >>> kind(3), kind(True), kind("a"), kind(torch.ones(2)), kind(None)
        ('number', 'number', 'string', 'tensor', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, ValueWithInfo):
        return kind(value.value())
    found = (name for name, types in _KINDS if isinstance(value, types))
    return next(found, type(value).__name__)


def check_kinds(key: str, old: Sequence[Any], new: Sequence[Any]) -> None:
    """Refuse to put values behind others that are of another kind.

    A list collects its elements: it takes another list, and a value of their kind. None is a number
    or a text that is missing.

    Raises:
        ValueError: names the key and both kinds.

    Example:
        >>> check_kinds("k", [[1, 2]], [3])
        >>> check_kinds("k", [torch.ones(2)], [3])
        Traceback (most recent call last):
        ...
        ValueError: 'k': a tensor and a number cannot be joined under one key...
    """
    if not old or not new or (isinstance(old[-1], list) and isinstance(new[0], list)):
        return
    before, after = _element(reversed(old)), _element(iter(new))
    if before in (after, "empty") or after == "empty":
        return
    if "none" in (before, after) and before in _SCALARS and after in _SCALARS:
        return
    raise ValueError(
        f"{key!r}: a {before} and a {after} cannot be joined under one key. Make them alike, put "
        f"them under two keys, or register_aggregation({key!r}, fn)."
    )


def _element(parts: Any) -> str:
    """Return the kind of the nearest part, of a list that of its elements; of None go on."""
    found = "empty"
    for part in parts:
        if isinstance(part, list):
            found = next((kind(item) for item in reversed(part) if item is not None), found)
        else:
            found = kind(part)
        if found not in ("none", "empty"):
            return found
    return found


def joined(values: Sequence[Any]) -> Any:
    """Return one value for several of one kind, in their order.

    Tensors and arrays are concatenated along the first dimension (single numbers stacked) where
    shapes, dtypes and devices allow it without loss, else collected in a list, one for each. Lists
    are extended. Everything else - tuples, dicts, numbers, texts, None - is collected in a list.
    Where one is lazy the result is too, and keeps examples of different length.

    Cost: one copy of what is in memory; nothing of what is lazy is read.

    Example:
        >>> joined([torch.ones(2, 3), torch.ones(1, 3)]).shape, joined([1, 2]), joined([(1,), (2,)])
        (torch.Size([3, 3]), [1, 2], [(1,), (2,)])
        >>> len(joined([torch.ones(2, 3), torch.ones(2, 4), torch.ones(1, 3)]))
        3
    """
    if any(isinstance(value, list) for value in values):
        return [item for value in values for item in as_list(value)]
    if all(isinstance(value, (torch.Tensor, *Lazy)) for value in values):
        return _tensors(values)
    if all(isinstance(value, np.ndarray) for value in values):
        return _arrays(values)
    return list(values)


def as_list(value: Any) -> list[Any]:
    """Return a list itself, another value as the only entry of one.

    Example:
        >>> as_list([1, 2]), as_list(1)
        ([1, 2], [1])
    """
    return value if isinstance(value, list) else [value]


def _tensors(values: Sequence[Any]) -> Any:
    # a single number is read: one that is lazy has no rows to be joined
    values = [v.load() if isinstance(v, LazyTensor) and not v.ndim else v for v in values]
    if any(isinstance(value, Lazy) for value in values):
        return join(values) if _joinable(values) else list(values)
    if not concatenable(values):
        return list(values)
    return torch.cat([value if value.ndim else value[None] for value in values])


def concatenable(values: Sequence[torch.Tensor]) -> bool:
    """Whether tensors can be concatenated, or single numbers stacked, without losing a bit.

    Example:
        >>> concatenable([torch.ones(2), torch.ones(3)]), concatenable([torch.ones(2, 3)] * 2)
        (True, True)
        >>> concatenable([torch.ones(2, 3), torch.ones(2, 4)])
        False
        >>> concatenable([torch.ones(2), torch.ones(2, dtype=torch.int64)])  # as float32: rounded
        False
    """
    first = values[0]
    return all(
        value.layout == torch.strided
        and not value.is_nested
        and value.device == first.device
        and value.shape[1:] == first.shape[1:]
        and (value.ndim <= 1) == (first.ndim <= 1)
        and (value.ndim == first.ndim or first.ndim <= 1)
        for value in values
    ) and exact_dtypes([value.dtype for value in values])


def exact_dtypes(dtypes: Sequence[torch.dtype]) -> bool:
    """Whether some dtype of their family holds the values of all exactly.

    Example:
        >>> exact_dtypes([torch.bfloat16, torch.float16]), exact_dtypes([torch.int8, torch.float64])
        (True, False)
    """
    different = set(dtypes)
    return len(different) == 1 or any(
        different.issubset(family) for family in (_FLOATS, _INTS, _COMPLEX)
    )


def _joinable(values: Sequence[Any]) -> bool:
    """Whether lazy tensors, and perhaps some in memory, are rows of one kind."""
    lazy = next(value for value in values if isinstance(value, Lazy))
    alike = all(x.ndim == lazy.ndim and x.device == lazy.device for x in values)
    if not alike or not exact_dtypes([value.dtype for value in values]):
        return False
    ragged = [value for value in values if isinstance(value, RaggedTensor)]
    if ragged:
        heads = {value.selection.heads.size for value in ragged}
        return len(ragged) == len(values) and len(heads) == 1
    lead = next(value.lead_ndim for value in values if isinstance(value, LazyTensor))
    return lead > 0 and len({_row_shape(value, lead) for value in values}) == 1


def _row_shape(x: Any, lead: int) -> tuple[int, ...] | None:
    if isinstance(x, torch.Tensor):
        return tuple(x.shape[lead:])
    return x.row_shape if x.lead_ndim == lead else None


def _arrays(values: Sequence[np.ndarray]) -> Any:
    first = values[0]
    fits = all(
        value.shape[1:] == first.shape[1:]
        and (value.ndim == first.ndim or max(value.ndim, first.ndim) <= 1)
        for value in values
    )
    if not fits or not _exact_arrays(values):
        return list(values)
    return np.concatenate([np.atleast_1d(value) for value in values])


def _exact_arrays(values: Sequence[np.ndarray]) -> bool:
    dtypes = {value.dtype for value in values}
    if len(dtypes) == 1:
        return True
    kinds = "".join(dtype.kind for dtype in dtypes)
    if set(kinds) == {"i", "u"}:
        return np.result_type(*dtypes).kind == "i"
    return len(set(kinds)) == 1 and kinds[0] in "iufcUS"
