"""What a run says of a site that it stored: its provenance, read with care. Pure.

The information of a run is JSON that anybody may have written: what is not as expected counts as
not said.
"""

from __future__ import annotations

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

_LINEAR = (None, "mean", "sum")


def info_of(snapshot: Snapshot, run: str, site: str) -> Mapping[str, Any]:
    """Return what is said of a site of a run: by the run, or by what added the site to it."""
    own = snapshot.runs[run].info if run in snapshot.runs else {}
    if site in _mapping(own, "sites"):
        return own
    added = (r.info for r in snapshot.runs.values() if r.info.get(ADDS_TO) == run)
    return next((info for info in added if site in _mapping(info, "sites")), own)


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


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}
