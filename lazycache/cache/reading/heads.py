"""Which entry of a stored row is a head, by what the runs say of the model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lazycache.cache.names.head_names import GROUPED, HeadName
from lazycache.catalog.run_info import HEADS, head_counts, info_of, is_transformed, subset_of
from lazycache.errors import SiteNotFoundError

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot
    from lazycache.types import SiteSpec

_SIBLINGS = ("queries", "z", "pattern")


def place_of(
    snapshot: Snapshot, name: HeadName, spec: SiteSpec, *, stored: str | None = None
) -> int:
    """Return the entry of the first dimension of a row that holds a head.

    Under grouped-query attention, several query heads read one head of keys and values. How many
    is in the information of the run, else in the shapes of other sites of the layer.

    Args:
        snapshot: What the dataset holds.
        name: The head; `name.head` is not None.
        spec: What a row is.
        stored: The stored site that a computed one follows from.

    Raises:
        SiteNotFoundError: there is no such head, it was not stored, or runs differ in where it is.
    """
    source = stored or spec.name
    places = {
        _place(name, spec, _known(snapshot, name, spec, source, info))
        for info in _infos(snapshot, source)
    }
    if len(places) > 1:
        raise SiteNotFoundError(
            f"different runs have head {name.head} of {name.site!r} in different places: take the "
            f"place from cache[{name.site!r}], for the examples of one run."
        )
    return places.pop()


@dataclass(frozen=True, slots=True)
class _Known:
    """What a run says of a site."""

    heads: int | None  # query heads
    entries: int | None  # of the site as the model has it
    subset: tuple[int, ...] | None  # of these, the stored ones
    transformed: bool  # by a function of the user, which may have left no heads


def _known(
    snapshot: Snapshot, name: HeadName, spec: SiteSpec, source: str, info: Mapping[str, Any]
) -> _Known:
    subset, counts = subset_of(info, source), head_counts(info, name.prefix)
    whole, transformed = spec.shape[0] if subset is None else None, is_transformed(info, source)
    if counts is not None:
        entries = counts[1] if name.kind in GROUPED else counts[0]
        return _Known(counts[0], entries, subset, transformed)
    heads = _sibling_heads(snapshot, name, info) if name.kind in GROUPED else None
    return _Known(heads or whole, whole, subset, transformed)


def _place(name: HeadName, spec: SiteSpec, known: _Known) -> int:
    assert name.head is not None, "a layer has no place"
    if known.transformed and not _has_heads(spec, known):
        raise SiteNotFoundError(
            f"{name.site!r} was transformed when it was captured, to rows of shape "
            f"{list(spec.shape)} that are no heads: read cache[{name.site!r}]."
        )
    if known.heads is not None and name.head >= known.heads:
        raise SiteNotFoundError(
            f"{name.site!r} has no head {name.head}: its heads are 0 to {known.heads - 1}."
        )
    entry = name.head
    if name.kind in GROUPED and known.heads and known.entries:
        entry //= max(1, known.heads // known.entries)
    if known.subset is None:
        place = entry
    elif entry in known.subset:
        place = known.subset.index(entry)
    else:
        there = ", ".join(map(str, known.subset))
        raise SiteNotFoundError(
            f"head {entry} of {name.site!r} was not stored: of this site there are {there}."
        )
    if place >= spec.shape[0]:
        raise SiteNotFoundError(
            f"{name.site!r} has {spec.shape[0]} heads; there is no head {name.head}."
        )
    return place


def _has_heads(spec: SiteSpec, known: _Known) -> bool:
    stored = known.entries if known.subset is None else len(known.subset)
    return len(spec.shape) > 1 and spec.shape[0] == stored


def _sibling_heads(snapshot: Snapshot, name: HeadName, info: Mapping[str, Any]) -> int | None:
    """Return the query heads of a layer by another site of it that has them all."""
    for kind in _SIBLINGS:
        spec = snapshot.sites.get(name.of(kind))
        if spec is not None and spec.shape and subset_of(info, spec.name) is None:
            return spec.shape[0]
    return None


def _infos(snapshot: Snapshot, site: str) -> list[Mapping[str, Any]]:
    """Return what is said of a site by the runs that stored it; of runs that agree, one."""
    infos = [info_of(snapshot, run, site) for run in snapshot.runs]
    said = [(info.get(HEADS), subset_of(info, site), is_transformed(info, site)) for info in infos]
    if all(one == said[0] for one in said):
        return [*infos[:1], {}][:1]
    # looked for only where it matters: a dataset may have very many shards
    stored = snapshot.runs_of(site)
    return [info_of(snapshot, run, site) for run in snapshot.runs if run in stored] or [{}]
