"""Which model and tokenizer made the activations, as JSON values for the log."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from lazycache.capture.corpus.fingerprints import (
    function_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from lazycache.capture.sites.architectures import locate
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.reduce import Reduction, is_ragged
from lazycache.catalog.run_info import section

_INCIDENTAL = frozenset({"_name_or_path", "transformers_version", "architectures", "use_cache"})
"""Parts of a configuration that say where or by what it was loaded, not what it computes."""

_MODEL = ("class", "parameters", "dtypes", "weights")
_TOKENIZER = ("class", "vocab_size", "vocabulary")
_SETTINGS = ("dtype", "positions", "where", "pool", "transform", "subset", "max_length", "training")
"""Parts of a description that must be equal in one run."""

_LIBRARIES = ("lazycache", "torch", "transformers", "tokenizers", "numpy")


def describe_model(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """Describe a model and its tokenizer in JSON values.

    Cost: looks at metadata, once at every parameter (about 10 GB/s) and at the vocabulary.

    Example:
        >>> described = describe_model(nn.Linear(2, 3))
        >>> described["class"], described["parameters"], described["dtype"]
        ('torch.nn.modules.linear.Linear', 9, 'float32')
    """
    stacks = locate(model)
    config = getattr(model, "config", None)
    return {
        "class": _class(model),
        "family": ", ".join(stack.family.name for stack in stacks) or None,
        "name_or_path": getattr(config, "_name_or_path", None) or None,
        "config": _config(config),
        **_parameters(model),
        "weights": weights_fingerprint(model),
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
    where: object = None,
    pool: str | None = None,
    reductions: Mapping[str, Reduction] = MappingProxyType({}),
) -> dict[str, Any]:
    """Describe what is captured from which model: a run's provenance.

    `heads` holds query heads and heads of keys and values by the prefix of each stack of layers,
    from which readers find the heads in a site, and `layers` how many layers the stack has, which
    says what layer -1 is; `subset` says which heads or units were kept.

    Example:
        >>> found = describe_capture(
        ...     nn.Linear(2, 3), {}, tokenizer=None, dtype=None, positions="all", where=len
        ... )
        >>> found["where"], found["heads"], found["subset"]
        ('builtins.len', {}, {})
    """
    stacks = locate(model)
    shapes = {stack.family.prefix: stack.heads for stack in stacks}
    functions = {name: r.transform for name, r in reductions.items() if r.transform is not None}
    subsets = {name: r.subset for name, r in reductions.items() if r.subset is not None}
    described = describe_model(model, tokenizer)
    if described["attention"] is not None and any(map(is_ragged, points.values())):
        described["attention"] = "eager"  # what the model runs while patterns are captured
    return {
        "model": described,
        "sites": {name: str(point) for name, point in points.items()},
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "positions": _positions(positions),
        "where": None if where is None else callable_name(where),
        "pool": pool,
        "transform": {name: callable_name(function) for name, function in functions.items()},
        "functions": _functions(functions, where=where, positions=positions),
        "subset": {name: {"axis": s.axis, "index": list(s.index)} for name, s in subsets.items()},
        "heads": {
            prefix: [shape.heads, shape.kv_heads]
            for prefix, shape in shapes.items()
            if shape is not None
        },
        "layers": {stack.family.prefix: stack.layers for stack in stacks},
        "training": model.training,
    }


def callable_name(function: object) -> str:
    """Return what a function is called: where it was defined, and how.

    Example:
        >>> callable_name(nn.Linear)
        'torch.nn.modules.linear.Linear'
    """
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", getattr(function, "__name__", None))
    return _class(function) if name is None else f"{module}.{name}"


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say what keeps a run from being continued: what would make its rows of two kinds.

    Library versions and devices may change; model, tokenizer, sites and selection may not.

    Example:
        >>> differences({"dtype": None, "sites": {"a": "x"}}, {"dtype": "float16", "sites": {}})
        ['dtype was None, is float16', 'sites were a, are none']
    """
    before, now = _plain(known), _plain(wanted)
    found = model_differences(before, now)
    codes = [section(info, "functions") for info in (before, now)]
    found += [
        f"{name} was another function of the same name, or with other values"
        for name in codes[0].keys() & codes[1].keys()
        if codes[0][name] != codes[1][name]
    ]
    both = [key for key in _SETTINGS if key in before and key in now]
    found += [f"{key} was {before[key]}, is {now[key]}" for key in both if before[key] != now[key]]
    if before.get("sites") != now.get("sites"):
        names = [", ".join(section(info, "sites")) or "none" for info in (before, now)]
        found.append(f"sites were {names[0]}, are {names[1]}")
    return found


def model_differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Say how the model and the tokenizer of a run differ from others.

    Example:
        >>> old, new = describe_model(nn.Linear(2, 3)), describe_model(nn.Linear(2, 4))
        >>> model_differences({"model": old}, {"model": new})[0]
        "the model's parameters was 9, is 12"
    """
    before, now = _plain(known), _plain(wanted)
    models = [section(info, "model") for info in (before, now)]
    tokenizers = [section(model, "tokenizer") for model in models]
    configs = [section(model, "config") for model in models]
    checked = list(_TOKENIZER)
    if _version(models[0]) == _version(models[1]):
        checked.append("rules")  # another version may write the same rules in other words
    keys = sorted(set().union(*configs) - _INCIDENTAL)
    return [
        *_unequal("the model's ", models, _MODEL),
        *_unequal("the tokenizer's ", tokenizers, checked),
        *_unequal("the model's config.", configs, keys),
    ]


def _unequal(what: str, pair: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> list[str]:
    before, now = pair
    return [
        f"{what}{key} was {before.get(key)}, is {now.get(key)}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _version(model: Mapping[str, Any]) -> object:
    return section(model, "versions").get("tokenizers")


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance as it comes back from the log: tuples are lists, keys are text."""
    plain: dict[str, Any] = json.loads(json.dumps(info, default=str))
    return plain


def _functions(
    transforms: Mapping[str, object], *, where: object, positions: object
) -> dict[str, str]:
    """Fingerprints of the functions of a user by what they are for."""
    named = {f"transform of {name}": function for name, function in transforms.items()}
    asked = {**named, "where": where, "positions": positions}
    return {name: function_fingerprint(f) for name, f in asked.items() if callable(f)}


def _positions(positions: object) -> Any:
    if callable(positions):
        return f"callable {callable_name(positions)}"
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


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    return {
        "class": _class(tokenizer),
        "name_or_path": getattr(tokenizer, "name_or_path", None) or None,
        "vocab_size": getattr(tokenizer, "vocab_size", None),
        **tokenizer_fingerprint(tokenizer),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # optional ones may be missing, that is worth knowing too
            continue
    return found
