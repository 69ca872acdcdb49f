"""Which modules of a model a forward pass can call: hooks on the others would never run."""

from __future__ import annotations

import inspect

from torch import nn

from lazycache.errors import CaptureError

_HOLD_WEIGHTS = ("NonDynamicallyQuantizableLinear", "LinearPackedParams", "PackedParameter")
"""Modules that torch never calls; by name, since importing those of quantisation costs time."""


def check_model(model: object) -> None:
    """Refuse what is no torch model.

    Raises:
        CaptureError: says what it is.

    Example:
        >>> check_model(nn.Linear(2, 2))
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"model={model!r:.60} is a {type(model).__name__}; a torch.nn.Module is needed. A name "
            "is loaded first: transformers.AutoModelForCausalLM.from_pretrained(name)."
        )


def callable_paths(model: nn.Module) -> list[str]:
    """Return the paths of the modules that can be called, without the model itself.

    A module that is there under two names has its first one. Left out are modules of torch itself
    whose weights another reads: the `out_proj` of nn.MultiheadAttention, the packed weights of
    quantised layers.

    Example:
        >>> callable_paths(nn.Sequential(nn.ModuleList([nn.ReLU()])))
        ['0.0']
    """
    return [
        path
        for path, module in model.named_modules()
        if path and not is_container(module) and type(module).__name__ not in _HOLD_WEIGHTS
    ]


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
