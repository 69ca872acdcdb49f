"""Eager attention for the length of a capture: other kernels never make the probabilities.

transformers models only, by what their configurations say; other models are left alone. The whole
model is switched, so every site captured beside a pattern is one of eager attention: equal to what
the faster kernels give to rounding, not bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lazycache.errors import CaptureError

_EAGER = "eager"
_STORED = "_attn_implementation_internal"
"""Where a configuration keeps it: set directly, since the property sets all below it too."""


@contextmanager
def eager_attention(model: nn.Module, paths: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Run the model with eager attention inside the block; put each configuration back after it.

    Args:
        model: What is captured.
        paths: Attention modules whose probabilities are captured. If they are eager already, or say
            nothing of it (no transformers model), nothing is changed; nor if there are none.

    Yields:
        What the model ran before, such as `("sdpa",)`; nothing if it was left alone.

    Raises:
        CaptureError: the model cannot change its attention once it is loaded.

    Example:
        >>> with eager_attention(nn.Linear(2, 2), [""]) as switched:
        ...     switched
        ()
    """
    configs = [config for path in paths if (config := _config_at(model, path)) is not None]
    if all(_is_eager(config) for config in configs):
        yield ()
        return
    before = [(config, vars(config)[_STORED]) for config in _all_configs(model)]
    try:
        _switch(model, configs)
        yield tuple(sorted({kind for _, kind in before if kind not in (None, _EAGER)}))
    finally:
        for config, kind in before:
            vars(config)[_STORED] = kind


def attention_of(model: nn.Module) -> tuple[str, ...]:
    """Return which kernels the attention of a model runs, as its configurations say it.

    Example:
        >>> attention_of(nn.Linear(2, 2))
        ()
    """
    kinds = {vars(config)[_STORED] for config in _all_configs(model)}
    return tuple(sorted(kind for kind in kinds if kind is not None))


def _switch(model: nn.Module, needed: list[Any]) -> None:
    for module in list(model.modules()):  # outermost first: it takes those inside it along
        config = _config(module)
        change = getattr(module, "set_attn_implementation", None)
        if config is None or change is None or _is_eager(config):
            continue
        if not _can_change(module):
            continue  # an error only if its patterns are wanted
        try:
            change(_EAGER)
        except (ValueError, ImportError, NotImplementedError, RuntimeError) as exc:
            raise _cannot(model, config, why=str(exc)) from exc
    stuck = next((config for config in needed if not _is_eager(config)), None)
    if stuck is not None:
        why = "its class, or this version of transformers, sets the attention when it is made"
        raise _cannot(model, stuck, why=why)


def _cannot(model: nn.Module, config: Any, *, why: str) -> CaptureError:
    return CaptureError(
        f"Attention probabilities (pattern sites) exist only in eager attention. "
        f"{type(model).__name__} runs {vars(config)[_STORED]!r} and cannot be switched: {why}. "
        'Load it with from_pretrained(..., attn_implementation="eager"), or leave the patterns out.'
    )


def _can_change(module: nn.Module) -> bool:
    """Say whether the class follows its configuration when it runs; if not it would only log."""
    asked = getattr(module, "_can_set_attn_implementation", None)
    return True if asked is None else bool(asked())


def _config_at(model: nn.Module, path: str) -> Any:
    """Return the configuration that an attention module follows: its own, or of what it is in."""
    parts = path.split(".") if path else []
    for end in range(len(parts), -1, -1):
        config = _config(model.get_submodule(".".join(parts[:end])))
        if config is not None:
            return config
    return None


def _config(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    return config if _STORED in getattr(config, "__dict__", ()) else None


def _is_eager(config: Any) -> bool:
    return vars(config)[_STORED] in (None, _EAGER)


def _all_configs(model: nn.Module) -> list[Any]:
    """Return every configuration in the model once, sub-configurations too."""
    found: dict[int, Any] = {}
    waiting = [config for module in model.modules() if (config := _config(module)) is not None]
    while waiting:
        config = waiting.pop()
        if id(config) not in found:
            found[id(config)] = config
            below = (getattr(config, name, None) for name in getattr(config, "sub_configs", {}))
            waiting += [sub for sub in below if _STORED in getattr(sub, "__dict__", ())]
    return list(found.values())
