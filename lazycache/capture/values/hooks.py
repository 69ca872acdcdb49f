"""Forward hooks on named points of a model: registered on entry, always removed."""

from __future__ import annotations

import gc
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lazycache.capture.inputs.arguments import find_argument, positional_names
from lazycache.capture.sites.heads import cut_heads
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.tensors import first_tensor, pick_tensor, swapped
from lazycache.errors import CaptureError

OnValue = Callable[[str, torch.Tensor, torch.Tensor | None], None]
"""Called with a site's name, its tensor as the model made it (heads cut out; not detached, not
copied), and the first tensor that its module was called with."""

OnGradient = Callable[[str, torch.Tensor, torch.Tensor | None], None]
"""Called with a site's name, the tensor whose gradient it is (heads not cut out), and the first
tensor that its module was called with."""

Hook = TypeVar("Hook", bound=Callable[..., Any])

Sites = Sequence[tuple[str, HookPoint]]
"""Sites on the same side of the same module."""


class HookSet:
    """Calls `on_value` each time a forward pass meets one of the points.

    Hooks are there only inside the `with` block, whatever ends it. A point sees what its module
    was really called with and really gave, after the hooks that were on the model before. Of a
    gradient `on_gradient` is called in the forward pass, with the tensor that will have it: what
    passes itself (`HookPoint.total`), or what only this module uses.

    Raises:
        CaptureError: on entry, if hooks on a point could not run (compiled or scripted modules);
            in the forward pass, if what passes a point holds no tensor.

    Example:
        >>> from lazycache.capture.sites.resolve import resolve
        >>> model, seen = nn.Sequential(nn.Linear(2, 3)), []
        >>> points = resolve(model, "0")
        >>> with HookSet(model, points, lambda name, value, _: seen.append(value.shape)):
        ...     _ = model(torch.zeros(5, 2))
        >>> seen
        [torch.Size([5, 3])]
    """

    def __init__(
        self,
        model: nn.Module,
        points: Mapping[str, HookPoint],
        on_value: OnValue,
        on_gradient: OnGradient | None = None,
    ) -> None:
        self._model = model
        self._points = dict(points)
        self._on_value = on_value
        self._on_gradient = on_gradient
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Register one hook for each module and side."""
        if self._handles:
            raise CaptureError("These hooks are on the model already.")
        check_hookable(self._model, self._points.values())
        try:
            for (path, of_input), sites in self._grouped().items():
                module = self._model.get_submodule(path)
                register = self._register_input if of_input else self._register_output
                self._handles.append(register(module, sites))
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

    def _grouped(self) -> dict[tuple[str, bool], list[tuple[str, HookPoint]]]:
        groups: dict[tuple[str, bool], list[tuple[str, HookPoint]]] = defaultdict(list)
        for name, point in self._points.items():
            groups[point.path, point.side.endswith("in")].append((name, point))
        return groups

    def _register_input(self, module: nn.Module, sites: Sites) -> RemovableHandle:
        names = positional_names(module.forward)

        def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given: dict[int | str, Any] = dict(enumerate(args))
            given.update(kwargs.items())
            before = list(given.values())
            for name, point in sites:
                at = find_argument(
                    args, kwargs, name=name, index=point.index, field=point.field, parameters=names
                )
                inner = None if point.field is None else point.index
                tensor = pick_tensor(given[at], name=name, index=inner)
                if point.side == "in":
                    self._on_value(name, _cut(tensor, point, name), _source(args, kwargs))
                else:
                    # a module that overwrites its input would leave a view without a gradient
                    alone = not point.total and not getattr(module, "inplace", False)
                    source = _source(args, kwargs)
                    given[at] = self._watch(name, tensor, given[at], source, alone=alone)
            if all(new is old for new, old in zip(given.values(), before, strict=True)):
                return None
            return tuple(given[i] for i in range(len(args))), {key: given[key] for key in kwargs}

        return module.register_forward_pre_hook(untraced(on_input), with_kwargs=True)

    def _register_output(self, module: nn.Module, sites: Sites) -> RemovableHandle:
        def on_output(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
        ) -> object:
            for name, point in sites:
                tensor = _pick_output(output, name, point)
                if point.side == "out":
                    self._on_value(name, _cut(tensor, point, name), _source(args, kwargs))
                else:
                    # of one fresh tensor nobody else knows: its own gradient is that of the output,
                    # and unlike a view it may be overwritten later
                    alone = not point.total and _is_known_elsewhere(tensor, output, args, kwargs)
                    output = self._watch(name, tensor, output, _source(args, kwargs), alone=alone)
            return output

        return module.register_forward_hook(untraced(on_output), with_kwargs=True)

    def _watch(
        self,
        name: str,
        tensor: torch.Tensor,
        value: object,
        source: torch.Tensor | None,
        *,
        alone: bool,
    ) -> object:
        """Announce a gradient; where the tensor has other uses, put a view of it in its place."""
        assert self._on_gradient is not None, "points of gradients need who takes them"
        own = tensor
        if alone and tensor.requires_grad and torch.is_grad_enabled():
            own = tensor.view_as(tensor)
        self._on_gradient(name, own, source)
        return value if own is tensor else swapped(value, tensor, own)


def untraced(hook: Hook) -> Hook:
    """Keep `torch.compile` out of a hook: it runs as it is, between the parts that are compiled.

    Cost: under a microsecond per call, and only where the compiler is loaded.

    Example:
        >>> untraced(len)([1, 2])
        2
    """
    # asked for, the compiler would be imported, which takes a second; who compiles has done that
    if "torch._dynamo" not in sys.modules:
        return hook
    wrapped: Hook = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return wrapped


def _cut(tensor: torch.Tensor, point: HookPoint, name: str) -> torch.Tensor:
    if point.cut is None:
        return tensor
    try:
        return cut_heads(tensor, point.cut)
    except CaptureError as exc:
        raise CaptureError(f"{name}: {exc}") from exc


def _source(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
    first = next((t for t in map(first_tensor, args) if t is not None), None)
    return first if first is not None else first_tensor(kwargs)


def _pick_output(output: object, name: str, point: HookPoint) -> torch.Tensor:
    try:
        return pick_tensor(output, name=name, index=point.index, field=point.field)
    except CaptureError as exc:
        if point.cut is None or point.cut.kind != "pattern":
            raise
        raise CaptureError(
            f"{name}: the module gave no attention probabilities. Only eager attention computes "
            'them: load the model with attn_implementation="eager".'
        ) from exc


def _is_known_elsewhere(
    tensor: torch.Tensor, output: object, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Say whether a tensor of an output may have uses beside those of the output."""
    if isinstance(output, tuple | list):
        return True  # attention: its weights are used for what it returns before them
    return any(value is tensor for value in (*args, *kwargs.values()))


def check_hookable(model: nn.Module, points: Iterable[HookPoint]) -> None:
    """Refuse models on whose points hooks would never run.

    Hooks that are added after `torch.compile` has traced a module are silently skipped, and
    scripted modules take no hooks with keyword arguments.

    Raises:
        CaptureError: a point is inside a compiled or scripted module.
    """
    refuse_script(model, "the model")
    for path in sorted({ancestor for point in points for ancestor in _ancestors(point.path)}):
        module = model.get_submodule(path)
        where = f"{path!r}" if path else "the model"
        refuse_script(module, where)
        if _is_compiled(module):
            raise CaptureError(
                f"{where} is compiled with torch.compile: hooks that are added now would never "
                "run. Capture the model before compiling it (`model._orig_mod` is the original)."
            )


def refuse_script(module: nn.Module, where: str) -> None:
    """Refuse TorchScript.

    Raises:
        CaptureError: says where it is.

    Example:
        >>> refuse_script(nn.Linear(2, 2), "the model")
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            f"{where} is TorchScript, which hooks cannot see into. Capture the module that it was "
            "made of."
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
