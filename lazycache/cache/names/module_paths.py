"""Paths of modules as names of sites: `model.layers.3` where `resid_out_3` was captured. Pure.

A run says where in the model each of its sites was. Sites that were captured under their path have
it as their name, with the side: `model.norm:out`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lazycache.cache.names.key_forms import GRADIENT
from lazycache.catalog import run_info

_SIDES = {
    "fwd": "out",
    "fwd_kwargs": "out",
    "fwd_pre": "in",
    "fwd_pre_kwargs": "in",
    "bwd": "grad_out",
    "bwd_pre": "grad_out",
}
"""Directions of `ActivationCaching` as sides of a module."""

_SIDE = re.compile(r".*:(?:out|in|grad_out|grad_in)(?:[.\[@].*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AtPath:
    """The sites that were captured at a path."""

    whole: tuple[str, ...] = ()
    """Those that are what passed there."""
    parts: tuple[str, ...] = ()
    """Those that were cut out of it, into heads."""


def raw_name(key: object) -> str | None:
    """Return the raw name that a key may be: `model.norm` is `model.norm:out`; None if it is none.

    Example:
        >>> raw_name("model.norm"), raw_name("model.norm:in"), raw_name(("fwd_pre", "0"))
        ('model.norm:out', 'model.norm:in', '0:in')
    """
    if isinstance(key, str):
        return key if _SIDE.fullmatch(key) else f"{key}:out"
    if isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str) for part in key):  # noqa: PLR2004  # direction and path
        side = _SIDES.get(key[0])
        return None if side is None else f"{key[1]}:{side}"
    return None


def sites_at(raw: str, there: Collection[str], infos: Iterable[Mapping[str, Any]]) -> AtPath:
    """Return the sites that were captured where a raw name says, by what the runs say.

    Example:
        >>> sites_at("h.3:out", ["resid_out_3"], [{"sites": {"resid_out_3": "h.3:out"}}]).whole
        ('resid_out_3',)
    """
    found: dict[str, bool] = {}
    for info in infos:
        for site, cut in run_info.sites_at(info, raw).items():
            # the gradient of a site is taken wherever the tensor is used, not at the module only
            if site in there and not site.endswith(GRADIENT):
                found.setdefault(site, cut)
    return AtPath(
        tuple(site for site, cut in found.items() if not cut),
        tuple(site for site, cut in found.items() if cut),
    )
