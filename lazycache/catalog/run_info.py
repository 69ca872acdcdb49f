"""What a run says of a site that it stored: its provenance, read with care. Pure.

The information of a run is JSON that anybody may have written: what is not as expected counts as
not said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot

ADDS_TO = "adds_to"
"""Key of what was added to a run later: the name of the run."""

SUBSET = "subset"
"""Key: site to the axis and the indices that were stored of it."""

HEADS = "heads"
"""Key: prefix of site names to [query heads, heads of keys and values] of the model."""

LAYERS = "layers"
"""Key: prefix of site names to the number of layers of the model."""

SITES = "sites"
"""Key: site to the raw name of where it was in the model."""

_CUT = re.compile(r" [a-z_]+(?:\.[qkv])? [0-9]+/[0-9]+x[0-9]+")
"""What follows a raw name where heads were cut out of what passed there."""

_ROTATING = ("rope", "rotary", "alibi", "relative_attention")
"""Beginnings of keys in configurations of models that tell positions inside attention."""

_MOST = 1 << 62

_LINEAR = (None, "mean", "sum")


def info_of(snapshot: Snapshot, run: str, site: str) -> Mapping[str, Any]:
    """Return what is said of a site of a run: by the run, or by what added the site to it."""
    own = snapshot.runs[run].info if run in snapshot.runs else {}
    if site in _mapping(own, SITES):
        return own
    added = (r.info for r in snapshot.runs.values() if r.info.get(ADDS_TO) == run)
    return next((info for info in added if site in _mapping(info, SITES)), own)


def section(info: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a part of what a run says; an empty one if it says none, or something else there.

    Example:
        >>> section({"model": {"class": "x"}}, "model"), section({"model": [1]}, "model")
        ({'class': 'x'}, {})
    """
    return _mapping(info, key)


def whole_number(info: Mapping[str, Any], key: str, default: int) -> int:
    """Return a number from 0 that a run says; the default if it says none.

    Example:
        >>> whole_number({"n": 3}, "n", 0), whole_number({"n": []}, "n", 0)
        (3, 0)
    """
    value = info.get(key)
    return value if type(value) is int and 0 <= value < _MOST else default


def subset_of(info: Mapping[str, Any], site: str) -> tuple[int, ...] | None:
    """Return which heads were stored of a site, in order; None for all of them.

    Example:
        >>> subset_of({"subset": {"z_1": {"axis": "heads", "index": [0, 3]}}}, "z_1")
        (0, 3)
    """
    entry = _mapping(_mapping(info, SUBSET), site)
    index = entry.get("index")
    if entry.get("axis") != "heads" or not isinstance(index, (list, tuple)):
        return None
    return tuple(index) if all(type(i) is int for i in index) else None


def is_linear(info: Mapping[str, Any], site: str) -> bool:
    """Say whether whole heads of a site were stored as the model had them, or sums of these.

    Example:
        >>> is_linear({"pool": "max"}, "z_1"), is_linear({}, "z_1")
        (False, True)
    """
    cut = _mapping(_mapping(info, SUBSET), site).get("axis") == "units"
    return not cut and not is_transformed(info, site) and info.get("pool") in _LINEAR


def is_transformed(info: Mapping[str, Any], site: str) -> bool:
    """Say whether what was stored of a site is what a function made of it.

    Example:
        >>> is_transformed({"transform": {"z_1": "norms"}}, "z_1"), is_transformed({}, "z_1")
        (True, False)
    """
    return site in _mapping(info, "transform")


def head_counts(info: Mapping[str, Any], prefix: str) -> tuple[int, int] | None:
    """Return the query heads and kv heads of the model; None if they are not said.

    Example:
        >>> head_counts({"heads": {"": [12, 4]}}, "")
        (12, 4)
    """
    counts = _mapping(info, HEADS).get(prefix)
    if not isinstance(counts, (list, tuple)) or [type(n) for n in counts] != [int, int]:
        return None
    heads, kv_heads = counts
    return (heads, kv_heads) if 0 < kv_heads <= heads else None


def layer_count(info: Mapping[str, Any], prefix: str) -> int | None:
    """Return how many layers the model has; None if it is not said.

    Example:
        >>> layer_count({"layers": {"": 12}}, ""), layer_count({}, "")
        (12, None)
    """
    count = _mapping(info, LAYERS).get(prefix)
    return count if type(count) is int and count > 0 else None


def says_positions_are_added(info: Mapping[str, Any]) -> bool:
    """Say whether the model is known to add positions to its embedding of the tokens.

    Models of which a configuration is stored that speaks of no other way to tell positions.

    Example:
        >>> says_positions_are_added({"model": {"config": {"n_positions": 64}}})
        True
        >>> says_positions_are_added({"model": {"config": {"rope_theta": 1e4}}})
        False
    """
    config = _mapping(_mapping(info, "model"), "config")
    return bool(config) and not any(str(key).startswith(_ROTATING) for key in config)


def sites_at(info: Mapping[str, Any], raw: str) -> dict[str, bool]:
    """Return the sites that were where a raw name says, and whether heads were cut out there.

    Example:
        >>> sites_at({"sites": {"resid_out_3": "h.3:out", "embed": "h.0:in"}}, "h.3:out")
        {'resid_out_3': False}
        >>> sites_at({"sites": {"z_3": "h.3.c_proj:in heads 4/4x8"}}, "h.3.c_proj:in")
        {'z_3': True}
    """
    found: dict[str, bool] = {}
    for site, point in _mapping(info, SITES).items():
        # a dataset may have very many runs: most points are told apart by their beginning
        if isinstance(point, str) and point.startswith(raw):
            end = point[len(raw) :]
            if not end or _CUT.fullmatch(end):
                found[site] = bool(end)
    return found


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}
