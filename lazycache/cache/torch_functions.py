"""torch functions on lazy tensors: aggregates stream, everything else loads within the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lazycache.cache.loading import Loadable, within_budget

_STREAMED: dict[Callable[..., Any], str] = {
    torch.mean: "mean",
    torch.sum: "sum",
    torch.amin: "min",
    torch.amax: "max",
    torch.var: "var",
    torch.std: "std",
}
_NAMES = {"dim", "axis", "keepdim", "keepdims"}


def call(cls: type[Loadable], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer `func(*args, **kwargs)`, of which some arguments are lazy tensors.

    Raises:
        MemoryBudgetError: what has to be loaded is larger than the budget.
    """
    op = _STREAMED.get(func)
    if op is not None and args and isinstance(args[0], cls) and _plain(args[1:], kwargs):
        return _streamed(args[0], op, args[1:], kwargs)
    lazy = list(_lazy(cls, (args, kwargs)))
    within_budget(lazy, what=f"torch function {getattr(func, '__name__', func)!r}")
    return func(*_loaded(cls, args), **_loaded(cls, kwargs))


def _plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether nothing but dimensions was given: dtype, out, correction and others are torch's."""
    if len(args) > 1 or not kwargs.keys() <= _NAMES or len({"dim", "axis"} & kwargs.keys()) > 1:
        return False
    if args and {"dim", "axis"} & kwargs.keys():
        return False
    dims = (*args, *(kwargs[name] for name in ("dim", "axis") if name in kwargs))
    return all(d is None or _is_dims(d) for d in dims)


def _is_dims(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_dims, value))
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _streamed(x: Loadable, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    (dim,) = args or (kwargs.get("dim", kwargs.get("axis")),)
    if isinstance(dim, (list, tuple)):
        # no dimension is every dimension, to torch
        dim = tuple(dim) or None
    keepdim = bool(kwargs.get("keepdim", kwargs.get("keepdims", False)))
    result: torch.Tensor = getattr(x, op)(dim, keepdim=keepdim)
    # torch's own dtype, rounded once from float64: its caller goes on computing with it
    return result.to(x.dtype) if x.dtype.is_floating_point else result


def _lazy(cls: type[Loadable], value: Any) -> Iterator[Loadable]:
    if isinstance(value, cls):
        yield value
    elif isinstance(value, dict):
        yield from _lazy(cls, tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _lazy(cls, item)


def _loaded(cls: type[Loadable], value: Any) -> Any:
    if isinstance(value, cls):
        return value.load()
    if isinstance(value, dict):
        return {key: _loaded(cls, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_loaded(cls, item) for item in value)
    return value
