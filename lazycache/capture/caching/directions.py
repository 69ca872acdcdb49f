"""The six directions of `ActivationCaching`: how each is hooked, what it hands over, by which name.

The directions and the names of their arguments are those of torch's hooks, as tdhook numbers them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lazycache.capture.sites.names import Side
from lazycache.errors import CaptureError, nearest

Hook = Callable[[Mapping[str, Any]], None]
"""Takes what passed, by the names of the direction's arguments."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One way to look at a module."""

    name: str
    """As users say it: `fwd`."""
    arguments: tuple[str, ...]
    """What a callback is called with, beside `key` and `direction`."""
    values: tuple[str, ...]
    """Which of them is cached without a callback: the first of these that holds a tensor."""
    side: Side
    """What it is called in names of sites."""

    def register(self, module: nn.Module, hook: Hook) -> RemovableHandle:
        """Put a hook on a module, after those that are there."""

        def call(*passed: Any) -> None:
            hook(dict(zip(self.arguments, passed, strict=True)))

        if self.name == "bwd":
            return module.register_full_backward_hook(call)
        if self.name == "bwd_pre":
            return module.register_full_backward_pre_hook(call)
        with_kwargs = "kwargs" in self.arguments
        if self.side == "in":
            return module.register_forward_pre_hook(call, with_kwargs=with_kwargs)
        return module.register_forward_hook(call, with_kwargs=with_kwargs)

    def value(self, passed: Mapping[str, Any], *, key: object) -> torch.Tensor:
        """Return what is cached without a callback: a tensor, or the first one of a tuple.

        Raises:
            CaptureError: there is none.
        """
        for name in self.values:
            tensor = _first(passed[name])
            if tensor is not None:
                return tensor
        shown = type(passed[self.values[0]]).__name__
        more = " or the direction 'fwd_pre_kwargs'" if self.name == "fwd_pre" else ""
        raise CaptureError(
            f"{key!r}: {shown} values without a tensor are not supported for caching, use a "
            f"`callback` that returns one{more}."
        )


DIRECTIONS: Mapping[str, Direction] = {
    direction.name: direction
    for direction in (
        Direction("fwd", ("module", "args", "output"), ("output",), "out"),
        Direction("bwd", ("module", "grad_input", "grad_output"), ("grad_output",), "grad_out"),
        Direction("fwd_pre", ("module", "args"), ("args",), "in"),
        Direction("bwd_pre", ("module", "grad_output"), ("grad_output",), "grad_out"),
        Direction("fwd_kwargs", ("module", "args", "kwargs", "output"), ("output",), "out"),
        Direction("fwd_pre_kwargs", ("module", "args", "kwargs"), ("args", "kwargs"), "in"),
    )
}
"""All directions by name."""


def check_directions(directions: Sequence[str] | None) -> tuple[Direction, ...]:
    """Return the directions that were asked for; None is `fwd`.

    Raises:
        CaptureError: not a list of names, an unknown one, one twice.

    Example:
        >>> [direction.name for direction in check_directions(["fwd", "bwd"])]
        ['fwd', 'bwd']
    """
    if directions is None:
        return (DIRECTIONS["fwd"],)
    if isinstance(directions, str) or not isinstance(directions, Sequence) or not directions:
        raise CaptureError(
            f"directions={directions!r}: a list of names is needed, of {', '.join(DIRECTIONS)}."
        )
    for name in directions:
        if name not in DIRECTIONS:
            raise CaptureError(f"No direction {name!r}. {nearest(str(name), DIRECTIONS)}")
    if len(set(directions)) < len(directions):
        raise CaptureError(f"directions={directions!r}: one is there twice.")
    return tuple(DIRECTIONS[name] for name in directions)


def check_callback(callback: object, directions: Collection[Direction]) -> None:
    """Refuse a callback that the hooks could not call, before anything runs.

    It is called by keyword, with the arguments of the direction, `key` and `direction`.

    Raises:
        CaptureError: says which names it lacks, or which it needs that nobody gives.

    Example:
        >>> check_callback(lambda *, output, **_: output, check_directions(None))
    """
    if callback is None:
        return
    if not callable(callback):
        raise CaptureError(f"callback={callback!r:.60} cannot be called.")
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some builtins tell nothing: their call will
        return
    for direction in directions:
        given = dict.fromkeys((*direction.arguments, "key", "direction"))
        try:
            signature.bind(**given)
        except TypeError as exc:
            raise CaptureError(
                f"callback{signature} cannot be called for direction {direction.name!r}: {exc}. "
                f"It gets {', '.join(given)}, by keyword; take the others with **_."
            ) from exc


def _first(value: object) -> torch.Tensor | None:
    """First tensor in order, looking into tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        return value
    parts: Collection[object] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, tuple | list):
        parts = value
    return next((t for t in map(_first, parts) if t is not None), None)
