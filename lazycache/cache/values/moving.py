"""Values of a cache on another device or in another dtype, with what is inside of them. Pure."""

from __future__ import annotations

from typing import Any

import torch

from lazycache.cache.values.joining import Lazy
from lazycache.cache.values.value_with_info import ValueWithInfo


def converted(value: Any, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """Return a value with its tensors moved and converted, in lists, tuples and dicts too.

    Only floating-point tensors change their dtype: ids and masks are not rounded. A lazy tensor is
    converted when it is loaded; anything else that is no tensor stays what it is.

    Example:
        >>> converted({"x": [torch.ones(1)], "ids": torch.tensor([300])}, torch.bfloat16, None)
        {'x': [tensor([1.], dtype=torch.bfloat16)], 'ids': tensor([300])}
    """
    if isinstance(value, (torch.Tensor, *Lazy)):
        return moved_tensor(value, dtype, device)
    if isinstance(value, ValueWithInfo):
        return ValueWithInfo(converted(value.value(), dtype, device), value.info())
    if type(value) is dict:
        return {key: converted(item, dtype, device) for key, item in value.items()}
    if isinstance(value, tuple) or type(value) is list:
        items = [converted(item, dtype, device) for item in value]
        # a named tuple takes its fields one by one
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return _other(value, dtype, device)


def moved_tensor(x: Any, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """Return a tensor, lazy or not, moved; converted if it is of floating point."""
    wanted = {"dtype": dtype if x.dtype.is_floating_point else None, "device": device}
    wanted = {name: target for name, target in wanted.items() if target is not None}
    return x.to(**wanted) if wanted else x


def _other(value: Any, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """Move what knows how to: a TensorDict, the encoding of a tokenizer, a packed sequence."""
    if isinstance(value, type) or not callable(getattr(value, "to", None)):
        return value
    for target in (dtype, device):
        value = value if target is None else value.to(target)
    return value
