"""Patterns of site names against one model: which hook points they mean, and what there is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lazycache.capture.architectures import Located, locate
from lazycache.capture.columns import check_printable
from lazycache.capture.sites import (
    HookPoint,
    match_names,
    parse_site,
    split_side,
)
from lazycache.catalog.natural import natural_key
from lazycache.errors import CaptureError, SiteNotFoundError, StorageError, nearest
from lazycache.storage.layout import site_dir


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """What is known of a site before anything runs."""

    name: str
    """The name to ask for."""
    point: HookPoint
    """Where it is in the model."""
    shape: tuple[int, ...] | None
    """Shape of one row; None where only a forward pass can tell."""
    dtype: str
    """What the parameters of the model are: the dtype that activations usually have."""
    row_bytes: int | None
    """Bytes of one row in that dtype; None where the shape is not known."""


def available(model: nn.Module) -> list[SiteInfo]:
    """List the canonical sites of a model, or its modules if its family is in no table.

    Reads the configuration and the modules, runs nothing. In the order of the forward pass.

    Example:
        >>> [site.name for site in available(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        ['0:out', '1:out']
    """
    located = locate(model)
    if located is not None:
        points = _canonical(model, located)
    else:
        points = {str(HookPoint(path, "out")): HookPoint(path, "out") for path in _callable(model)}
    return [_info(model, name, point) for name, point in points.items()]


def resolve(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, HookPoint]:
    """Return what the patterns mean in this model: site name to hook point, in natural order.

    A pattern without a side (`:out`, `:in`) means canonical names first and, if it fits none of
    them, module paths (side `out`). A raw site is named `PATH:side`, however it was asked for.

    Raises:
        SiteNotFoundError: a pattern that means nothing here; names the nearest.
        CaptureError: patterns that are no str; `re:` with something that is not a regular
            expression; a module whose path cannot be a name in a dataset.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> resolve(model, ["1", "0:in"])["0:in"]
        HookPoint(path='0', side='in', index=None)
    """
    asked = _asked(patterns)
    if not asked:
        raise SiteNotFoundError("No sites were asked for. lc.sites(model) lists what there is.")
    located = locate(model)
    canonical = {} if located is None else _canonical(model, located)
    found: dict[str, HookPoint] = {}
    for pattern in asked:
        points = _resolve_one(model, pattern, canonical)
        if not points:
            raise _nothing(model, pattern, located, canonical)
        found |= points
    for name in found:
        _check_site(name)
    return dict(sorted(found.items(), key=lambda item: natural_key(item[0])))


def _asked(patterns: object) -> list[str]:
    if isinstance(patterns, str):
        return [patterns]
    listed = list(patterns) if isinstance(patterns, Iterable) else [patterns]
    names = [pattern for pattern in listed if isinstance(pattern, str)]
    if len(names) < len(listed):
        wrong = next(pattern for pattern in listed if not isinstance(pattern, str))
        raise CaptureError(
            f"sites: {wrong!r:.60} is no name. Give a name or pattern such as 'resid_out_*', or a "
            "list of them; lc.sites(model) lists what there is."
        )
    return names


def _check_site(name: str) -> None:
    """Refuse a module path that the log or the folders would not take, before anything runs."""
    check_printable(name, what="a site")
    try:
        site_dir(name)
    except StorageError as exc:
        raise CaptureError(f"The module of site {name!r:.60} cannot be captured: {exc}") from exc


def _canonical(model: nn.Module, located: Located) -> dict[str, HookPoint]:
    """All sites of the family whose module this model really has: `BertModel` has no logits."""
    modules = dict(model.named_modules(remove_duplicate=False))
    points = {str(site): located.point(site) for site in located.sites()}
    return {name: point for name, point in points.items() if point.path in modules}


def _resolve_one(
    model: nn.Module, pattern: str, canonical: dict[str, HookPoint]
) -> dict[str, HookPoint]:
    path, side = split_side(pattern)
    if side is None:
        names = match_names(pattern, canonical)
        if names:
            return {name: canonical[name] for name in names}
        side = HookPoint(pattern, "out")
    points = [HookPoint(found, side.side, side.index) for found in _match_paths(model, path)]
    return {str(point): point for point in points}


def _match_paths(model: nn.Module, pattern: str) -> list[str]:
    exact = dict(model.named_modules(remove_duplicate=False))
    if pattern in exact:
        if _is_container(exact[pattern]):
            raise SiteNotFoundError(
                f"{pattern!r} is a {type(exact[pattern]).__name__}: it is never called, so it has "
                f"no output. Ask for what is in it: '{pattern}.*'."
            )
        return [pattern]
    return match_names(pattern, _callable(model))


def _callable(model: nn.Module) -> list[str]:
    """Paths of the modules that a forward pass can call, without the model itself."""
    return [path for path, module in model.named_modules() if path and not _is_container(module)]


def _is_container(module: nn.Module) -> bool:
    """Say whether a module only holds others (`ModuleList`): it has no forward to be called."""
    # torch gives such modules a `forward` that only raises, under a name of its own; looked up
    # without running code, since TorchScript makes its `forward` when it is asked for
    forward = inspect.getattr_static(type(module), "forward", None)
    return getattr(forward, "__name__", "") == "_forward_unimplemented"


def _nothing(
    model: nn.Module, pattern: str, located: Located | None, canonical: dict[str, HookPoint]
) -> SiteNotFoundError:
    kind = type(model).__name__
    site = parse_site(pattern)
    names = [*canonical, *_callable(model)]
    if located is None and site is not None:
        why = (
            f"{kind} is of no family that lazycache knows, so it has no canonical names: "
            "ask by module path."
        )
    elif located is not None and site is not None and site.layer is not None:
        why = f"{kind} has layers 0 to {located.layers - 1}."
    elif site is not None:
        why = f"{kind} has no such module; a model with that head has."
    else:
        why = f"Neither a site nor a module of {kind} fits."
    return SiteNotFoundError(
        f"No site {pattern!r}. {why} {nearest(pattern, names)} lc.sites(model) lists them all."
    )


def _info(model: nn.Module, name: str, point: HookPoint) -> SiteInfo:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = "float32" if parameter is None else str(parameter.dtype).removeprefix("torch.")
    itemsize = 4 if parameter is None else parameter.dtype.itemsize
    width = _width(model, name, point)
    shape = None if width is None else (width,)
    size = None if shape is None else math.prod(shape) * itemsize
    return SiteInfo(name=name, point=point, shape=shape, dtype=dtype, row_bytes=size)


def _width(model: nn.Module, name: str, point: HookPoint) -> int | None:
    """Units of one row, from the configuration and the projection that a site feeds."""
    site = parse_site(name)
    if site is None:
        return None
    if site.kind == "mlp_act":
        weight = getattr(model.get_submodule(point.path), "weight", None)
        hidden = _hidden_size(model)
        # [out, in] in nn.Linear, [in, out] in GPT-2's Conv1D: the side that is not the stream's
        sizes = [] if weight is None else [size for size in weight.shape if size != hidden]
        return sizes[0] if sizes else hidden
    if site.kind == "logits":
        return getattr(getattr(model, "config", None), "vocab_size", None)
    return _hidden_size(model)


def _hidden_size(model: nn.Module) -> int | None:
    return getattr(getattr(model, "config", None), "hidden_size", None)
