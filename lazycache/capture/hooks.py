"""Forward hooks on named points of a model: registered on entry, always removed."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lazycache.capture.sites import HookPoint
from lazycache.errors import CaptureError

OnValue = Callable[[str, torch.Tensor], None]
"""Called with a site's name and its tensor, as the model made it: not detached, not copied."""


class HookSet:
    """Calls `on_value(name, tensor)` each time a forward pass meets one of the points.

    Hooks are there only inside the `with` block, whatever ends it. A point sees what its module
    was really called with and really gave, after the hooks that were on the model before.

    Raises:
        CaptureError: on entry, if hooks on a point could not run (compiled or scripted modules);
            in the forward pass, if what passes a point holds no tensor.

    Example:
        >>> from lazycache.capture.resolve import resolve
        >>> model, seen = nn.Sequential(nn.Linear(2, 3)), []
        >>> with HookSet(model, resolve(model, "0"), lambda name, value: seen.append(value.shape)):
        ...     _ = model(torch.zeros(5, 2))
        >>> seen
        [torch.Size([5, 3])]
    """

    def __init__(
        self, model: nn.Module, points: Mapping[str, HookPoint], on_value: OnValue
    ) -> None:
        self._model = model
        self._points = dict(points)
        self._on_value = on_value
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Register one hook for each module and side."""
        if self._handles:
            raise CaptureError("These hooks are on the model already.")
        check_hookable(self._model, self._points.values())
        try:
            for (path, side), sites in self._grouped().items():
                self._handles.append(self._register(path, side, sites))
        except BaseException:  # whatever stops the registration, no hook may stay
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove them all."""
        self.remove()

    def remove(self) -> None:
        """Take every hook off the model. Does nothing a second time."""
        while self._handles:
            self._handles.pop().remove()

    def _grouped(self) -> dict[tuple[str, str], list[tuple[str, HookPoint]]]:
        groups: dict[tuple[str, str], list[tuple[str, HookPoint]]] = defaultdict(list)
        for name, point in self._points.items():
            groups[point.path, point.side].append((name, point))
        return groups

    def _register(
        self, path: str, side: str, sites: Sequence[tuple[str, HookPoint]]
    ) -> RemovableHandle:
        module = self._model.get_submodule(path)

        def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for name, point in sites:
                self._on_value(name, pick_input(args, kwargs, name=name, index=point.index))

        def on_output(_: nn.Module, _args: object, _kwargs: object, output: object) -> None:
            for name, point in sites:
                self._on_value(name, pick_tensor(output, name=name, index=point.index))

        if side == "in":
            return module.register_forward_pre_hook(on_input, with_kwargs=True)
        return module.register_forward_hook(on_output, with_kwargs=True)


def pick_input(
    args: Sequence[Any], kwargs: Mapping[str, Any], *, name: str, index: int | None
) -> torch.Tensor:
    """Return the tensor that a module is called with: positional, or `hidden_states`, or the first.

    Raises:
        CaptureError: it is called with no tensor.

    Example:
        >>> pick_input((), {"mask": None, "hidden_states": torch.ones(1)}, name="x", index=None)
        tensor([1.])
    """
    if args and (index is not None or any(_first(arg) is not None for arg in args)):
        return pick_tensor(tuple(args), name=name, index=index)
    named = dict(kwargs)
    first = {"hidden_states": named.pop("hidden_states")} if "hidden_states" in named else {}
    return pick_tensor({**first, **named}, name=name, index=index)


def pick_tensor(value: object, *, name: str, index: int | None) -> torch.Tensor:
    """Return the tensor of an output: itself, or the first (or `index`-th) of a tuple or mapping.

    Raises:
        CaptureError: there is no tensor, or no such element.

    Example:
        >>> pick_tensor((None, torch.ones(1)), name="x", index=None)
        tensor([1.])
    """
    chosen: object = value
    if index is not None:
        parts = _parts(value)
        if index >= len(parts):
            raise CaptureError(
                f"{name}: element {index} was asked for, but there are {len(parts)} "
                f"({type(value).__name__})."
            )
        chosen = parts[index]
    tensor = _first(chosen)
    if tensor is None:
        raise CaptureError(
            f"{name}: there is no tensor in what passes here ({type(chosen).__name__})."
        )
    return tensor


def _first(value: object) -> torch.Tensor | None:
    """First tensor in order, looking into tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        return value
    return next((t for t in map(_first, _parts(value)) if t is not None), None)


def _parts(value: object) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, tuple | list) else []


def check_hookable(model: nn.Module, points: Sequence[HookPoint] | Any) -> None:
    """Refuse models on whose points hooks would never run.

    Hooks that are added after `torch.compile` has traced a module are silently skipped, and
    scripted modules take no hooks with keyword arguments.

    Raises:
        CaptureError: a point is inside a compiled or scripted module.
    """
    for path in sorted({ancestor for point in points for ancestor in _ancestors(point.path)}):
        module = model.get_submodule(path)
        where = f"{path!r}" if path else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(f"{where} is TorchScript, which hooks cannot see into.")
        if _is_compiled(module):
            raise CaptureError(
                f"{where} is compiled with torch.compile: hooks that are added now would never "
                "run. Capture the model before compiling it (`model._orig_mod` is the original)."
            )


def _is_compiled(module: nn.Module) -> bool:
    # by name: importing torch._dynamo to ask costs seconds
    wrapped = type(module).__name__ == "OptimizedModule"
    return wrapped or getattr(module, "_compiled_call_impl", None) is not None


def is_wrapped_by_compile(model: nn.Module) -> bool:
    """Say whether there is a `torch.compile(model)`, which may have been traced without hooks.

    Cost: looks at every object of the process; for error messages.

    Example:
        >>> is_wrapped_by_compile(nn.Linear(1, 1))
        False
    """
    wrappers = (obj for obj in gc.get_objects() if type(obj).__name__ == "OptimizedModule")
    return any(getattr(wrapper, "_orig_mod", None) is model for wrapper in wrappers)


def _ancestors(path: str) -> list[str]:
    """Return the path itself and all above it, the root included."""
    parts = path.split(".") if path else []
    return [".".join(parts[:n]) for n in range(len(parts) + 1)]
