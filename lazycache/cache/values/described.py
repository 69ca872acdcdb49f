"""One short text for a value of a cache: its shape and dtype, its length, never its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.cache.values.value_with_info import ValueWithInfo

KEYS = 4
"""Keys of a dict that are shown."""

TEXT = 40
"""Characters of a string or a number that are shown."""


def described(value: Any) -> str:
    """Say what a value is. Reads nothing.

    Example:
        >>> described(torch.ones(2, 3)), described([1, 2]), described({"mean": torch.ones(2)})
        ('[2, 3] float32', 'list of 2 int', '{mean: [2] float32}')
    """
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return f"{list(value.shape)} {dtype_name(value.dtype)}"
    if isinstance(value, (LazyTensor, RaggedTensor)):
        return _lazy(value)
    if isinstance(value, ValueWithInfo):
        return f"{described(value.value())}, with info"
    if isinstance(value, (list, tuple)):
        return _sequence(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    return _scalar(value)


def dtype_name(dtype: object) -> str:
    """Return a dtype as people say it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def _lazy(x: LazyTensor | RaggedTensor) -> str:
    shape = _ragged_shape(x) if isinstance(x, RaggedTensor) else _lazy_shape(x)
    return f"[{', '.join(shape)}] {dtype_name(x.dtype)}"


def _lazy_shape(x: LazyTensor) -> list[str]:
    shape = list(map(str, x.shape))
    if x.is_ragged:
        shape[1] = f"≤{shape[1]}"
    return shape


def _ragged_shape(x: RaggedTensor) -> list[str]:
    chosen = x.selection
    # how many keys there are would have to be read
    most = int(chosen.lengths.max(initial=0))
    sizes = (str(len(chosen.numbers)), str(chosen.heads.size), f"≤{most}", "keys")
    return [size for size, gone in zip(sizes, chosen.removed, strict=True) if not gone]


def _scalar(value: Any) -> str:
    if value is not None and not isinstance(value, (int, float, complex, str, bytes, np.generic)):
        return type(value).__name__
    shown = repr(value[:TEXT] if isinstance(value, (str, bytes)) else value)
    return shown if len(shown) <= TEXT else f"{shown[: TEXT - 3]}..."


def _sequence(value: list[Any] | tuple[Any, ...]) -> str:
    kinds = {_kind(item) for item in value}
    of = f" {kinds.pop()}" if len(kinds) == 1 else ""
    return f"{type(value).__name__} of {len(value)}{of}"


def _kind(item: object) -> str:
    return "tensor" if isinstance(item, torch.Tensor) else type(item).__name__


def _mapping(value: Mapping[Any, Any]) -> str:
    shown = [f"{key!s:.{TEXT}}: {_short(item)}" for key, item in list(value.items())[:KEYS]]
    more = [f"and {len(value) - KEYS} more"] if len(value) > KEYS else []
    return f"{{{', '.join(shown + more)}}}"


def _short(item: object) -> str:
    # one floor: what is nested deeper is counted
    return f"dict of {len(item)}" if isinstance(item, Mapping) else described(item)
