"""torch functions on lazy tensors give tensors, and read no more than they need.

Aggregates stream, what selects reads what it selects, everything else loads within the budget.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from lazycache.cache.memory.loading import Loadable, within_budget

_FLOATS = "float"
_SAME = "same"

_STREAMED: dict[Callable[..., Any], tuple[str, str]] = {
    torch.mean: ("mean", _FLOATS),
    torch.sum: ("sum", _FLOATS),
    torch.amin: ("min", _FLOATS),
    torch.amax: ("max", _FLOATS),
    torch.var: ("var", _FLOATS),
    torch.std: ("std", _FLOATS),
    torch.all: ("all", _SAME),
    torch.any: ("any", _SAME),
    torch.count_nonzero: ("count_nonzero", _SAME),
    torch.argmax: ("argmax", _SAME),
    torch.argmin: ("argmin", _SAME),
}
"""The method that answers, and whether floats are rounded to torch's dtype of the result."""

_EXTREMES: dict[Callable[..., Any], str] = {torch.max: "max", torch.min: "min"}
"""Of everything; along a dimension torch gives places too."""

_NORMS: dict[Callable[..., Any], str] = {
    torch.norm: "p",
    torch.linalg.norm: "ord",
    torch.linalg.vector_norm: "ord",
}
"""And the name of the order."""

_DIVIDED = ("var", "std")
"""They take how to divide: `unbiased` behind the dimension, or a `correction`."""

_JOINING = {torch.cat, torch.concat, torch.concatenate, torch.stack, torch.vstack, torch.hstack}

OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(torch.Tensor, name): function
    for function, names in {
        operator.add: ("add", "__add__"),
        operator.sub: ("sub", "__sub__"),
        operator.mul: ("mul", "__mul__"),
        operator.truediv: ("div", "__truediv__"),
        operator.floordiv: ("__floordiv__",),
        operator.mod: ("remainder", "__mod__"),
        operator.pow: ("pow", "__pow__"),
        operator.matmul: ("matmul", "__matmul__"),
        operator.and_: ("__and__",),
        operator.or_: ("__or__",),
        operator.xor: ("__xor__",),
        operator.eq: ("eq", "__eq__"),
        operator.ne: ("ne", "__ne__"),
        operator.lt: ("lt", "__lt__"),
        operator.le: ("le", "__le__"),
        operator.gt: ("gt", "__gt__"),
        operator.ge: ("ge", "__ge__"),
    }.items()
    for name in names
}
"""What torch calls for `tensor + lazy`, and the operator that it stands for."""

_DIM = ("dim", "axis")
_KEEP = ("keepdim", "keepdims")


def call(cls: type[Loadable], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer `func(*args, **kwargs)`, of which some arguments are lazy tensors.

    Raises:
        MemoryBudgetError: what has to be loaded is larger than the budget.
    """
    if args and isinstance(args[0], cls):
        answer = _streamed(func, args[0], args[1:], kwargs)
        if answer is not None:
            return answer
        selected = _selected(func, args[0], args[1:], kwargs)
        if selected is not None:
            return loaded_call(cls, _itself, (selected,), {}, name=_name(func))
    return loaded_call(cls, func, args, kwargs)


def loaded_call(
    cls: type[Loadable],
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    name: str | None = None,
) -> Any:
    """Load the arguments that are lazy, within the budget, and call.

    Raises:
        MemoryBudgetError: they are larger than the budget.
    """
    what = f"torch function {name or _name(func)!r}"
    if func in _JOINING:
        what += " (lazycache.cache.joined.join.join reads nothing)"
    within_budget(list(_lazy(cls, (args, kwargs))), what=what)
    return func(*_loaded(cls, args), **_loaded(cls, kwargs))


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def _itself(value: Any) -> Any:
    return value


def _streamed(
    func: Any, x: Loadable, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Return what an aggregate gives; None if it is none, or was given what ours do not take."""
    op, result = _STREAMED.get(func, ("", _FLOATS))
    if func in _EXTREMES and not args and not kwargs:
        op = _EXTREMES[func]
    if func in _NORMS:
        op, args, kwargs = _norm(func, args, kwargs)
    options: dict[str, Any] = {}
    if op in _DIVIDED:
        args, kwargs, options["correction"] = _divided(args, kwargs)
    taken = _dims(args, kwargs) if op else None
    if taken is None:
        return None
    dim, keepdim = taken
    found = getattr(x, op)(dim, keepdim=keepdim, **options)
    if not isinstance(found, torch.Tensor):
        # of each row, which the method leaves lazy: the function gives numbers
        within_budget([found], what=f"torch function {_name(func)!r}")
        found = found.load()
    # torch's own dtype, rounded once from float64: its caller goes on computing with it
    same = result == _SAME or not x.dtype.is_floating_point
    answer: torch.Tensor = found if same else found.to(x.dtype)
    return answer


def _norm(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Return `norm` and what is left of the arguments, if it is the Euclidean one; else nothing."""
    name = _NORMS[func]
    order = args[0] if args else kwargs.get(name)
    rest = args[1:]
    dim = rest[0] if rest else kwargs.get("dim")
    euclidean = order in (None, 2, "fro")
    # of two dimensions, the order 2 of torch.linalg.norm is that of a matrix
    if func is torch.linalg.norm and order is not None:
        euclidean = order == 2 and _is_dim(dim)  # noqa: PLR2004
    op = "norm" if euclidean else ""
    # torch.norm hands on what it was not given, as None
    left = {k: v for k, v in kwargs.items() if k != name and (k in _DIM or v is not None)}
    return op, rest, left


def _divided(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return the arguments of var or std without what says how to divide, and the correction."""
    left = {k: v for k, v in kwargs.items() if k not in {"unbiased", "correction"}}
    by: Any = kwargs.get("unbiased", kwargs.get("correction"))
    place = 0 if args and isinstance(args[0], bool) else 1
    if len(args) > place:
        by, args = args[place], args[:place] + args[place + 1 :]
    return args, left, 1 if by is None else by


def _dims(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool] | None:
    """Return dimensions and keepdim; None if anything else was given: dtype, out, correction."""
    names = [name for name in kwargs if name in _DIM]
    if len(args) + len(names) > (2 if len(args) == 2 else 1) or kwargs.keys() - {*_DIM, *_KEEP}:  # noqa: PLR2004
        return None
    if len(args) == 2 and (names or not isinstance(args[1], bool)):  # noqa: PLR2004
        return None
    dim = args[0] if args else next((kwargs[name] for name in names), None)
    if dim is not None and not _is_dim(dim) and not _are_dims(dim):
        return None
    keep = args[1] if len(args) > 1 else next((kwargs[n] for n in _KEEP if n in kwargs), False)
    # no dimension is every dimension, to torch
    return (tuple(dim) or None) if isinstance(dim, (list, tuple)) else dim, bool(keep)


def _is_dim(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _are_dims(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(map(_is_dim, value))


def _selected(func: Any, x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a function selects, lazy; None if it is no such function."""
    name = _name(func)
    if name not in _SELECTING or func not in {getattr(torch, name), getattr(torch.Tensor, name)}:
        return None
    given = {**dict(zip(_SELECTING[name], args, strict=False)), **kwargs}
    if given.keys() != set(_SELECTING[name]) or len(args) + len(kwargs) != len(given):
        return None
    if name == "masked_select":
        return x[given["mask"]] if tuple(given["mask"].shape) == tuple(x.shape) else None
    dim = given["dim"]
    if not _is_dim(dim) or not -x.ndim <= dim < x.ndim:
        return None
    part: Any = given["index"] if name != "narrow" else _window(given, x.shape[dim])
    return None if part is None else x[(*(slice(None),) * (dim % x.ndim), part)]


_SELECTING = {
    "index_select": ("dim", "index"),
    "select": ("dim", "index"),
    "narrow": ("dim", "start", "length"),
    "masked_select": ("mask",),
}
"""Functions that select, and what they take."""


def _window(given: dict[str, Any], size: int) -> slice | None:
    """Return what `narrow` selects; None where torch says what is wrong."""
    start, length = int(given["start"]), int(given["length"])
    start = start + size if start < 0 else start
    inside = min(start, length) >= 0 and start + length <= size
    return slice(start, start + length) if inside else None


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
