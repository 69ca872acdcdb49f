"""Patterns of site names against one model: which hook points they mean, and what there is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lazycache.capture.inputs.columns import check_printable
from lazycache.capture.sites.architectures import Located
from lazycache.capture.sites.known_sites import KnownSites, known_sites
from lazycache.capture.sites.modules import callable_paths, check_model, is_container
from lazycache.capture.sites.names import (
    GRADIENT,
    HookPoint,
    Side,
    SiteName,
    match_names,
    parse_site,
    split_gradient,
    split_side,
)
from lazycache.capture.sites.projection import BoundProjection
from lazycache.catalog.natural import natural_key
from lazycache.errors import CaptureError, SiteNotFoundError, StorageError, nearest
from lazycache.storage.layout import site_dir


@dataclass(frozen=True, slots=True)
class Resolved:
    """What patterns mean in one model."""

    points: dict[str, HookPoint]
    """Name of each site that is captured to where it is, in natural order."""
    projections: dict[str, BoundProjection]
    """Name of each array that is kept once, `head_out_3.weight`, to the matrix that it is: asking
    for `head_out_3` captures `z_3` and keeps this."""


def resolve(model: nn.Module, patterns: str | Iterable[str]) -> dict[str, HookPoint]:
    """Return the points of `resolve_sites`: site name to hook point, in natural order.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> resolve(model, ["1", "0:in"])["0:in"].path
        '0'
    """
    return resolve_sites(model, patterns).points


def resolve_sites(model: nn.Module, patterns: str | Iterable[str]) -> Resolved:
    """Return what the patterns mean in this model.

    A pattern without a side (`:out`, `:in`, ...) means canonical names first, then other names of
    these (`values_L1`; `z_L1H3`, a head of `z_1`, means the whole site) and, if it fits none of
    them, module paths (side `out`). `NAME:grad` is the gradient of a canonical site. A raw site is
    named `PATH:side`, however it was asked for. `!PATTERN` takes back what the patterns before it
    found: `["*", "!pattern_*"]`.

    Raises:
        SiteNotFoundError: a pattern that means nothing here; names the nearest.
        CaptureError: what is no model; patterns that are no str; `re:` with something that is not a
            regular expression; a module whose path cannot be a name in a dataset.

    Example:
        >>> resolved = resolve_sites(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "*:grad_out")
        >>> list(resolved.points)
        ['0:grad_out', '1:grad_out']
    """
    check_model(model)
    asked = _asked(patterns)
    if not asked:
        raise SiteNotFoundError("No sites were asked for. lc.sites(model) lists what there is.")
    known = known_sites(model)
    points: dict[str, HookPoint] = {}
    projections: dict[str, BoundProjection] = {}
    for pattern in asked:
        wanted = pattern.removeprefix("!")
        found, kept = _resolve_one(model, wanted, known)
        if not found:
            raise _nothing(model, wanted, known)
        if wanted == pattern:
            points |= found
            projections |= kept
        else:
            _take_back(points, projections, found, kept)
    if not points:
        raise SiteNotFoundError(f"{', '.join(asked)}: nothing is left of what was asked for.")
    for name in points:
        _check_site(name)
    ordered = sorted(points.items(), key=lambda item: natural_key(item[0]))
    return Resolved(dict(ordered), projections)


def _take_back(
    points: dict[str, HookPoint],
    projections: dict[str, BoundProjection],
    found: dict[str, HookPoint],
    kept: dict[str, BoundProjection],
) -> None:
    """Remove sites; of `head_out` alone its matrix only, since `z` may be wanted for itself."""
    for name in kept:
        projections.pop(name, None)
    if len(kept) < len(found):
        for name in found:
            points.pop(name, None)


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


def _resolve_one(
    model: nn.Module, pattern: str, known: KnownSites
) -> tuple[dict[str, HookPoint], dict[str, BoundProjection]]:
    path, asked = split_side(pattern)
    if asked is None:
        text, gradient = split_gradient(pattern)
        names = match_names(text, known.points) or _by_other_names(text, known)
        if names:
            return _gradients(names, known) if gradient else _captured(names, known)
        asked = HookPoint(pattern, "out")
    points = [dataclasses.replace(asked, path=found) for found in _match_paths(model, path)]
    return {str(point): point for point in points}, {}


def _by_other_names(pattern: str, known: KnownSites) -> list[str]:
    aliases = known.aliases()
    return list(dict.fromkeys(aliases[other] for other in match_names(pattern, aliases)))


def _captured(
    names: list[str], known: KnownSites
) -> tuple[dict[str, HookPoint], dict[str, BoundProjection]]:
    """Return what is captured for canonical sites: for `head_out` its `z`, and the matrix."""
    sites = {name: known.names[name] for name in names}
    stored = {
        str(site.z if site.kind == "head_out" else site): known.points[name]
        for name, site in sites.items()
    }
    own = [name for name in names if name in known.projections]
    return stored, {f"{name}.weight": known.projections[name] for name in own}


def _gradients(
    names: list[str], known: KnownSites
) -> tuple[dict[str, HookPoint], dict[str, BoundProjection]]:
    own = [name for name in names if known.names[name].kind != "head_out"]
    if not own:
        raise CaptureError(
            f"{names[0]} has no gradient of its own: heads are added up, so that of every head is "
            f"the gradient of the sum, '{names[0].replace('head_out', 'attn_out')}{GRADIENT}'."
        )
    return {f"{name}{GRADIENT}": _gradient_of(known.points[name]) for name in own}, {}


def _gradient_of(point: HookPoint) -> HookPoint:
    side: Side = "grad_in" if point.side == "in" else "grad_out"
    return dataclasses.replace(point, side=side, total=True)


def _match_paths(model: nn.Module, pattern: str) -> list[str]:
    exact = dict(model.named_modules(remove_duplicate=False))
    if pattern in exact:
        if is_container(exact[pattern]):
            raise SiteNotFoundError(
                f"{pattern!r} is a {type(exact[pattern]).__name__}: it is never called, so it has "
                f"no output. Ask for what is in it: '{pattern}.*'."
            )
        return [pattern]
    return match_names(pattern, callable_paths(model))


def _nothing(model: nn.Module, pattern: str, known: KnownSites) -> SiteNotFoundError:
    site = parse_site(pattern)
    names = [*known.points, *callable_paths(model)]
    if site is not None:
        why = _why_not(type(model).__name__, site, known)
    elif pattern.endswith(GRADIENT):
        why = "':grad' is for canonical names; at a module there are ':grad_out' and ':grad_in'."
    else:
        why = _wrong_ending(model, pattern, known) or (
            f"Neither a site nor a module of {type(model).__name__} fits."
        )
    return SiteNotFoundError(
        f"No site {pattern!r}. {why} {nearest(pattern, names)} lc.sites(model) lists them all."
    )


def _wrong_ending(model: nn.Module, pattern: str, known: KnownSites) -> str | None:
    """Say what may follow a name or path that is there; None if it is not."""
    path = re.split("[:@]", pattern, maxsplit=1)[0]
    if path == pattern:
        return None
    if match_names(path, known.points):
        return f"Of the site {path!r} there is its gradient, '{path}{GRADIENT}', and nothing else."
    if match_names(path, callable_paths(model)):
        return (
            f"At a module there are ':out', ':in', ':grad_out' and ':grad_in', and behind them "
            f"'.name', '[0]' and the call '@0' or '@*', in this order: '{path}:out[0]@*'."
        )
    return None


def _why_not(model: str, site: SiteName, known: KnownSites) -> str:
    """Say why a model has not this canonical site."""
    if not known.stacks:
        return (
            f"{model} is of no family that lazycache knows, so it has no canonical names: ask by "
            "module path, or teach it with lc.register_architecture."
        )
    stack = next((s for s in known.stacks if s.family.prefix == site.prefix), None)
    if stack is None:
        prefixes = ", ".join(repr(s.family.prefix) for s in known.stacks)
        return f"Names of {model} begin with {prefixes}."
    return _why_not_here(model, site, stack, known)


def _why_not_here(model: str, site: SiteName, stack: Located, known: KnownSites) -> str:
    """Say why a stack of layers has not this canonical site."""
    if site.layer is not None and site.layer >= stack.layers:
        return f"{model} has layers 0 to {stack.layers - 1}."
    if str(site.named) in known.names and stack.heads is not None:
        return f"{model} has heads 0 to {stack.heads.heads - 1}."
    if site.kind not in stack.family.sites and site.kind != "head_out":
        return f"Models of the family {stack.family.name} have no {site.kind}."
    if stack.heads is None:
        return f"The configuration of {model} does not say how many heads it has."
    return f"{model} has no such module; a model with that head has."
