"""Tensors inside what modules take and give: tuples, lists, mappings and model outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from lazycache.errors import CaptureError, nearest


def first_tensor(value: object) -> torch.Tensor | None:
    """Return the first tensor in order, looking into tuples, lists and mappings; None if none.

    Example:
        >>> first_tensor((None, {"a": torch.ones(1)}))
        tensor([1.])
    """
    if isinstance(value, torch.Tensor):
        return value
    return next((t for t in map(first_tensor, _parts(value)) if t is not None), None)


def pick_tensor(
    value: object, *, name: str, index: int | None = None, field: str | None = None
) -> torch.Tensor:
    """Return the tensor that a site means: of `field`, and of that the `index`-th, the first one.

    Raises:
        CaptureError: there is no tensor, or no such field or element.

    Example:
        >>> pick_tensor((None, torch.ones(1)), name="x")
        tensor([1.])
        >>> pick_tensor({"logits": [torch.ones(1)]}, name="x", field="logits", index=0)
        tensor([1.])
    """
    chosen = value if field is None else _field(value, name, field)
    if index is not None:
        parts = _parts(chosen)
        if index >= len(parts):
            raise CaptureError(
                f"{name}: element {index} was asked for, but there are {len(parts)} "
                f"({type(chosen).__name__})."
            )
        chosen = parts[index]
    tensor = first_tensor(chosen)
    if tensor is None:
        raise CaptureError(
            f"{name}: there is no tensor in what passes here ({type(chosen).__name__})."
        )
    return tensor


def swapped(value: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """Return the value with the first occurrence of one tensor replaced; containers are copied.

    Example:
        >>> one, two = torch.ones(1), torch.zeros(1)
        >>> swapped((None, [one]), one, two)
        (None, [tensor([0.])])
    """
    if value is old:
        return new
    keys = list(value) if isinstance(value, Mapping) else range(len(_parts(value)))
    for key, part in zip(keys, _parts(value), strict=True):
        if _holds(part, old):
            return _with(value, key, swapped(part, old, new))
    return value


def _with(value: Any, key: Any, part: Any) -> Any:
    if isinstance(value, tuple):
        parts = [*value[:key], part, *value[key + 1 :]]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    changed = copy.copy(value)
    changed[key] = part
    return changed


def _holds(value: object, tensor: torch.Tensor) -> bool:
    return value is tensor or any(_holds(part, tensor) for part in _parts(value))


def _field(value: object, name: str, field: str) -> object:
    names = list(value) if isinstance(value, Mapping) else list(getattr(value, "_fields", ()))
    if isinstance(value, Mapping) and field in value:
        part: object = value[field]
        return part
    # a dataclass, or a field that a model output leaves out because it is None
    if not field.startswith("_") and field in {*names, *getattr(value, "__dataclass_fields__", ())}:
        return getattr(value, field)
    raise CaptureError(
        f"{name}: there is no field {field!r} in what passes here ({type(value).__name__}). "
        f"{nearest(field, map(str, names))}"
    )


def _parts(value: object) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else []
