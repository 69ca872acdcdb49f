"""Whether the table of a family could be applied to a model: said before it is used. Pure."""

from __future__ import annotations

import string
from collections.abc import Iterable

from lazycache.capture.sites.family import Family, Place, Projection
from lazycache.capture.sites.heads import CUTS
from lazycache.capture.sites.names import CANONICAL, LAYER_SITES, PREFIXES, split_side
from lazycache.errors import CaptureError, nearest


def check_family(family: Family) -> None:
    """Refuse a table that could not be applied.

    Raises:
        CaptureError: says what is wrong and what there is.

    Example:
        >>> family = Family("toy", frozenset({"toy"}), ("",), "h", {"embed": Place("h.0")})
        >>> check_family(family)
        Traceback (most recent call last):
        lazycache.errors.CaptureError: Family 'toy', embed: 'h.0' must end with the side, ...
    """
    if not isinstance(family, Family):
        raise CaptureError(
            "register_architecture takes a lazycache.capture.sites.family.Family, not "
            f"{family!r:.60}."
        )
    said = f"Family {family.name!r}"
    _check_names(said, "model_types", family.model_types)
    _check_names(said, "bases", family.bases)
    if family.prefix not in ("", *PREFIXES):
        raise CaptureError(f"{said}: prefix {family.prefix!r} is none of {', '.join(PREFIXES)}.")
    wrong = [base for base in family.bases if base and not base.endswith(".")]
    if wrong:
        raise CaptureError(f"{said}: base {wrong[0]!r} must end with a dot: '{wrong[0]}.'.")
    for kind in family.sites:
        _check_place(said, kind, family)
    for name in ("head_norm", "attn_norm", "cross_norm", "mlp_norm"):
        template = getattr(family, name)
        if template is not None:
            _filled(f"{said}, {name}", template)
    if family.projection is not None:
        _check_projection(said, family.projection, family)


def _check_names(said: str, what: str, given: object) -> None:
    values = [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not values or not all(isinstance(value, str) for value in values):
        raise CaptureError(f"{said}: {what} is {given!r:.60}, not a collection of names.")


def _check_place(said: str, kind: str, family: Family) -> None:
    if kind == "head_out":
        raise CaptureError(f"{said}: head_out is computed from z; give `projection`, not a place.")
    if kind not in CANONICAL:
        raise CaptureError(f"{said}: there is no site {kind!r}. {nearest(kind, CANONICAL)}")
    place, said = family.sites[kind], f"{said}, {kind}"
    if not isinstance(place, Place):
        raise CaptureError(f"{said}: {place!r:.60} is no Place of lazycache.capture.sites.family.")
    _, point = split_side(_filled(said, place.at))
    if point is None or point.side not in ("out", "in"):
        raise CaptureError(f"{said}: {place.at!r} must end with the side, ':out' or ':in'.")
    if kind in LAYER_SITES and "{L}" not in place.at:
        raise CaptureError(f"{said}: {place.at!r} has no {{L}}, so all layers would be one.")
    if place.cut is not None and place.cut not in CUTS:
        raise CaptureError(f"{said}: there is no cut {place.cut!r}. {nearest(place.cut, CUTS)}")


def _check_projection(said: str, projection: Projection, family: Family) -> None:
    _filled(f"{said}, projection", projection.module)
    place = family.sites.get("z")
    if place is None or place.cut != "heads":
        raise CaptureError(f"{said}: a projection needs the site z, cut into 'heads'.")


def _filled(said: str, template: object) -> str:
    """Fill a template with anything, if it can be filled."""
    if not isinstance(template, str):
        raise CaptureError(f"{said}: {template!r:.60} is no template.")
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as exc:
        raise CaptureError(f"{said}: {template!r} is no template: {exc}.") from exc
    unknown = sorted(fields - {"base", "L", "last"})
    if unknown:
        raise CaptureError(
            f"{said}: {template!r} has {{{unknown[0]}}}; a template may have {{base}}, {{L}} and "
            "{last}."
        )
    return template.format(base="", L=0, last=0)
