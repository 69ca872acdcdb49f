"""The arguments of a call by the names of its signature, and one of them by position or name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lazycache.capture.values.tensors import first_tensor
from lazycache.errors import CaptureError, nearest

Slot = int | str
"""Where an argument is: its position in the positional ones, or its keyword."""

_USUAL = "hidden_states"
"""What transformers call the tensor that a module works on."""


def named_arguments(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all arguments by name; a mapping given as the first one is unpacked.

    Example:
        >>> def forward(ids, *more, mask=None): ...
        >>> named_arguments(inspect.signature(forward), [1, 2], {"mask": 3})
        {'ids': 1, 'more[0]': 2, 'mask': 3}
    """
    try:
        bound = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:  # the model itself will say better what is wrong with the call
        return dict(kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}[{i}]": item for i, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    first = args[0] if args else None
    return {**named, **first} if isinstance(first, Mapping) else named


def positional_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the parameters that may be given by position, in order.

    Example:
        >>> positional_names(lambda x, mask=None, *, scale=1: x)
        ('x', 'mask')
    """
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # modules written in C++ have none
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def find_argument(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    name: str,
    index: int | None = None,
    field: str | None = None,
    parameters: Sequence[str] = (),
) -> Slot:
    """Return where the argument is that a site means.

    By `field`, the name of a parameter, or `index`, its position, however it was given; by neither
    it is the first one that holds a tensor: of those given by position, then `hidden_states`, then
    of those given by keyword.

    Raises:
        CaptureError: it was not given, or there is no tensor in any.

    Example:
        >>> find_argument([1], {"mask": 2}, name="x:in", field="ids", parameters=["ids", "mask"])
        0
        >>> find_argument([1], {"mask": 2}, name="x:in", index=1, parameters=["ids", "mask"])
        'mask'
    """
    if field is not None:
        return _by_name(args, kwargs, name, field, parameters)
    if index is not None:
        return _by_position(args, kwargs, name, index, parameters)
    named: dict[Slot, Any] = dict(enumerate(args))
    # before the other keywords, behind everything that came by position
    named |= {_USUAL: kwargs[_USUAL]} if _USUAL in kwargs else {}
    named.update(kwargs.items())
    found = next((at for at, value in named.items() if first_tensor(value) is not None), None)
    if found is None:
        raise CaptureError(f"{name}: the module was called without a tensor.")
    return found


def _by_name(
    args: Sequence[Any], kwargs: Mapping[str, Any], name: str, field: str, parameters: Sequence[str]
) -> Slot:
    if field in kwargs:
        return field
    by_position = parameters[: len(args)]
    if field in by_position:
        return by_position.index(field)
    raise CaptureError(
        f"{name}: the module was called without an argument {field!r}. "
        f"{nearest(field, [*by_position, *kwargs])}"
    )


def _by_position(
    args: Sequence[Any], kwargs: Mapping[str, Any], name: str, index: int, parameters: Sequence[str]
) -> Slot:
    if index < len(args):
        return index
    known = list(parameters or kwargs)
    if index < len(known) and known[index] in kwargs:
        return known[index]
    given = ", ".join([*map(str, range(len(args))), *kwargs])
    raise CaptureError(
        f"{name}: the module was called without an argument {index} (it was given {given})."
    )
