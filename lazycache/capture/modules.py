"""Which modules of a model a forward pass can call: hooks on the others would never run."""

from __future__ import annotations

import inspect

from torch import nn


def callable_paths(model: nn.Module) -> list[str]:
    """Return the paths of the modules that can be called, without the model itself.

    A module that is there under two names has its first one.

    Example:
        >>> callable_paths(nn.Sequential(nn.ModuleList([nn.ReLU()])))
        ['0.0']
    """
    return [path for path, module in model.named_modules() if path and not is_container(module)]


def is_container(module: nn.Module) -> bool:
    """Say whether a module only holds others (`ModuleList`): it has no forward to be called.

    Example:
        >>> is_container(nn.ModuleList()), is_container(nn.Sequential())
        (True, False)
    """
    # torch gives such modules a `forward` that only raises, under a name of its own; looked up
    # without running code, since TorchScript makes its `forward` when it is asked for
    forward = inspect.getattr_static(type(module), "forward", None)
    return getattr(forward, "__name__", "") == "_forward_unimplemented"
