"""Gradients come in the backward pass: what a forward pass waits for until it is whole."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from lazycache.errors import CaptureError

Take = Callable[[torch.Tensor], None]
"""Takes a gradient over: copies it before it returns."""


class Awaited:
    """The gradients that one forward pass waits for, each taken once.

    A hook on the tensor itself binds a gradient to this forward pass, whatever runs before its
    backward pass, and in whatever thread autograd runs it. A second backward pass through the same
    graph changes nothing.

    Args:
        done: Called when the last gradient came after the forward pass was over, in the thread
            that autograd runs. Its errors surface in the call of `backward`.

    Example:
        >>> x, seen = torch.ones(2, requires_grad=True), []
        >>> awaited = Awaited(lambda: seen.append("whole"))
        >>> awaited.expect("x", x, seen.append)
        >>> awaited.seal()
        False
        >>> (3 * x).sum().backward()
        >>> seen
        [tensor([3., 3.]), 'whole']
    """

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._missing: dict[int, tuple[str, Take]] = {}
        self._expected = 0
        self._sealed = False
        self._lock = threading.Lock()

    def expect(self, name: str, tensor: torch.Tensor, take: Take) -> None:
        """Wait for the gradient of a tensor.

        Raises:
            CaptureError: it will have none.
        """
        _check_differentiable(name, tensor)
        key = self.promise(name, take)

        def arrived(gradient: torch.Tensor | None) -> None:
            # None: the loss does not depend on this output of an operation that has several
            if gradient is not None:
                self._arrived(key, gradient)

        tensor.register_hook(arrived)  # type: ignore[no-untyped-call]  # torch has no types here

    def promise(self, name: str, take: Take) -> int:
        """Wait for a gradient that `give` will bring."""
        with self._lock:
            self._expected += 1
            self._missing[self._expected] = name, take
            return self._expected

    def lacks(self, name: str) -> bool:
        """Say whether a gradient of this name has not come yet."""
        return self._key(name) is not None

    def give(self, name: str, gradient: torch.Tensor) -> None:
        """Bring a gradient that was promised; the first one of this name that has not come."""
        key = self._key(name)
        if key is not None:
            self._arrived(key, gradient)

    def _key(self, name: str) -> int | None:
        with self._lock:
            return next((key for key, (known, _) in self._missing.items() if known == name), None)

    def _arrived(self, key: int, gradient: torch.Tensor) -> None:
        with self._lock:
            if key not in self._missing:
                return  # a second backward pass, or nobody waits any more
            _, take = self._missing[key]
            take(gradient)
            del self._missing[key]
            whole = self._sealed and not self._missing
        if whole:
            self._done()

    def seal(self) -> bool:
        """Say that the forward pass is over, and return whether all gradients are there already."""
        with self._lock:
            self._sealed = True
            return not self._missing

    def close(self) -> list[str]:
        """Wait no longer; return the names of the gradients that never came."""
        with self._lock:
            names = [name for name, _ in self._missing.values()]
            self._missing.clear()
            # nobody is told any more
            self._sealed = False
            return names


def _check_differentiable(name: str, tensor: torch.Tensor) -> None:
    if not torch.is_grad_enabled():
        raise CaptureError(
            f"{name}: there is no gradient, for the module runs without autograd. A checkpoint "
            "does that with use_reentrant=True: set use_reentrant=False."
        )
    if not tensor.requires_grad:
        raise CaptureError(
            f"{name}: there is no gradient, for nothing that this tensor comes from requires one "
            f"(it is {str(tensor.dtype).removeprefix('torch.')}). Parameters may be frozen: "
            "model.requires_grad_(True), or give inputs_embeds that require it."
        )


def check_grad_mode() -> None:
    """Refuse a forward pass of which no gradient can come.

    Raises:
        CaptureError: gradients are off.

    Example:
        >>> check_grad_mode()
    """
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        mode = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
        raise CaptureError(
            f"Gradients are captured, but the model runs under torch.{mode}(): call it with "
            "gradients on, and run backward() inside the block."
        )


def in_backward() -> bool:
    """Say whether this thread runs a backward pass: a checkpoint that computes again is no call.

    Example:
        >>> in_backward()
        False
    """
    # the public torch.utils.checkpoint asks in the same way
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001
