"""Which model and tokenizer made the activations, as JSON values for the log."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from lazycache.capture.architectures import locate
from lazycache.capture.sites import HookPoint
from lazycache.codec.checksum import crc32

_INCIDENTAL = frozenset({"_name_or_path", "transformers_version", "architectures", "use_cache"})
"""Parts of a configuration that say where or by what it was loaded, not what it computes."""

_LOOKED_AT = 64  # numbers of each parameter: other weights differ in nearly all of them

_LIBRARIES = ("lazycache", "torch", "transformers", "tokenizers", "numpy")


def describe_model(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """Describe a model and its tokenizer in JSON values.

    Cost: looks at metadata, and at 64 numbers of each parameter for a fingerprint.

    Example:
        >>> described = describe_model(nn.Linear(2, 3))
        >>> described["class"], described["parameters"], described["dtype"]
        ('torch.nn.modules.linear.Linear', 9, 'float32')
    """
    located = locate(model)
    config = getattr(model, "config", None)
    return {
        "class": _class(model),
        "family": None if located is None else located.family.name,
        "name_or_path": getattr(config, "_name_or_path", None) or None,
        "config": _config(config),
        **_parameters(model),
        "weights": _fingerprint(model),
        "attention": getattr(config, "_attn_implementation", None),
        "tokenizer": None if tokenizer is None else _tokenizer(tokenizer),
        "versions": _versions(),
    }


def describe_capture(
    model: nn.Module,
    points: Mapping[str, HookPoint],
    *,
    tokenizer: Any,
    dtype: torch.dtype | None,
    positions: object,
) -> dict[str, Any]:
    """Describe what is captured from which model: a run's provenance.

    Example:
        >>> found = describe_capture(
        ...     nn.Linear(2, 3), {}, tokenizer=None, dtype=None, positions="all"
        ... )
        >>> sorted(found)
        ['dtype', 'model', 'positions', 'sites', 'training']
    """
    return {
        "model": describe_model(model, tokenizer),
        "sites": {name: str(point) for name, point in points.items()},
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "positions": _positions(positions),
        "training": model.training,
    }


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say what keeps a run from being continued: what would make its rows of two kinds.

    Library versions and devices may change; model, tokenizer, sites and selection may not.

    Example:
        >>> differences({"dtype": None, "sites": {"a": "x"}}, {"dtype": "float16", "sites": {}})
        ['dtype was None, is float16', 'sites were a, are none']
    """
    found: list[str] = []
    before, now = _plain(known), _plain(wanted)
    models = [info.get("model", {}) for info in (before, now)]
    for key in ("class", "parameters", "dtypes", "tokenizer", "weights"):
        old, new = (model.get(key) for model in models)
        if old != new:
            found.append(f"the model's {key} was {old}, is {new}")
    old, new = (model.get("config") or {} for model in models)
    keys = sorted((old.keys() | new.keys()) - _INCIDENTAL)
    found += [
        f"the model's config.{key} was {old.get(key)}, is {new.get(key)}"
        for key in keys
        if old.get(key) != new.get(key)
    ]
    settings = ("dtype", "positions", "max_length", "training")
    both = [key for key in settings if key in before and key in now]
    found += [f"{key} was {before[key]}, is {now[key]}" for key in both if before[key] != now[key]]
    if before.get("sites") != now.get("sites"):
        names = [", ".join(info.get("sites", {})) or "none" for info in (before, now)]
        found.append(f"sites were {names[0]}, are {names[1]}")
    return found


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance as it comes back from the log: tuples are lists, keys are text."""
    plain: dict[str, Any] = json.loads(json.dumps(info, default=str))
    return plain


def _positions(positions: object) -> Any:
    if callable(positions):
        return f"callable {getattr(positions, '__qualname__', type(positions).__name__)}"
    return positions if isinstance(positions, str | int) else str(positions)


def _class(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _config(config: Any) -> dict[str, Any] | None:
    if not hasattr(config, "to_dict"):
        return None
    # names of dtypes and enums are enough to know what ran; JSON itself has no infinity
    text = json.dumps(config.to_dict(), default=str)
    plain: dict[str, Any] = json.loads(text, parse_constant=str)
    return plain


def _parameters(model: nn.Module) -> dict[str, Any]:
    sizes: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for parameter in model.parameters():
        sizes[str(parameter.dtype).removeprefix("torch.")] += parameter.numel()
        devices[str(parameter.device)] += parameter.numel()
    return {
        "parameters": sizes.total(),
        "dtype": sizes.most_common(1)[0][0] if sizes else None,
        "dtypes": dict(sizes),
        "device": devices.most_common(1)[0][0] if devices else None,
        "devices": dict(devices),
    }


def _fingerprint(model: nn.Module) -> str | None:
    """Tell weights apart: CRC-32 of the names and of some numbers of every parameter."""
    checksum = 0
    for name, parameter in model.named_parameters():
        if parameter.is_meta or parameter.layout != torch.strided:
            return None
        flat = parameter.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // _LOOKED_AT)].cpu().contiguous()
        checksum = crc32(some.view(torch.uint8).numpy().data, crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    return {
        "class": _class(tokenizer),
        "name_or_path": getattr(tokenizer, "name_or_path", None) or None,
        "vocab_size": getattr(tokenizer, "vocab_size", None),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # optional ones may be missing, that is worth knowing too
            continue
    return found
