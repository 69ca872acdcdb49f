"""What a cache has, told short: keys that differ in a number only are one line. Reads no rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazycache.cache.aggregates.stored_norms import rms_norm
from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.values.described import described, dtype_name
from lazycache.catalog.computed import COMPUTED
from lazycache.errors import LazycacheError
from lazycache.faces.html import number
from lazycache.mapping.cache_state import CacheState
from lazycache.mapping.memory_tree import segments_bytes
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import StoredSite

FEW_FILES = 20_000
"""Sites times commits up to which the files of each site are counted; beyond, rows are bounds."""

NORM_SITES = 64
"""Sites whose norms are looked up, at most."""

STREAM = "resid_"
"""How names begin of which norms are shown before those of all others: the residual stream."""

SHORT = 20
"""Letters of a name of which the first and the last of a group are both shown."""

_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Group:
    """Keys that differ in their numbers only, and are alike in all else that is said here."""

    keys: tuple[str, ...]
    """In the order of the cache."""
    table: str
    """The table whose rows they have; empty of values in memory."""
    what: str
    """Dtype of sites; of values what they are: `[2, 3] float32`."""
    row: str
    """Shape of a row: `[576]`; empty of values in memory."""
    rows: int | None
    """Rows of each of them; None of values in memory."""
    nbytes: int | None
    """Bytes of all of them; None where they would have to be read, 0 of what is computed."""
    bounded: bool
    """Whether rows and bytes are no more than that, instead of exactly that."""
    norms: tuple[float, ...]
    """Root mean squared norm of the rows of each key, from stored statistics; () where that is not
    known for little, or of one key alone."""

    @property
    def name(self) -> str:
        """The keys in short: `resid_out_0 … resid_out_29 (30)`."""
        first, last, many = self.keys[0], self.keys[-1], len(self.keys)
        if many == 1:
            return first
        shown = f"{first} … {last}" if max(len(first), len(last)) <= SHORT else self.pattern
        return f"{shown} ({many})"

    @property
    def pattern(self) -> str:
        """The keys with `*` in the place of numbers: `resid_out_*`."""
        return _pattern(self.keys[0]) if len(self.keys) > 1 else self.keys[0]


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a dataset behind a cache."""

    url: str
    """Its address."""
    version: int
    """The version that is shown."""
    runs: tuple[str, ...]
    """Names of its runs."""
    rows: tuple[tuple[str, int], ...]
    """Its tables that have rows, and how many, before any condition."""
    nbytes: int | None
    """Bytes of all its files, as the log says; None where counting them takes long."""
    conditions: tuple[str, ...]
    """The conditions that choose some of its rows."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What a cache has, and where from."""

    places: tuple[Place, ...]
    """The datasets."""
    groups: tuple[Group, ...]
    """The keys."""
    keys: int
    """How many there are."""


def overview(cache: CacheState, *, norms: bool = True) -> Overview:
    """Return what a cache has. Reads no rows.

    Args:
        cache: What is told about.
        norms: Look up the norms of layers in stored statistics, as `rms_norm` does.

    Cost: what `rms_norm` says, for groups of at least two sites of the residual stream, or where
    there are none for other groups; at most `NORM_SITES` sites. Of a cache that a condition has
    made, the rows that it keeps are asked for.

    Example:
        >>> from lazycache.samples import small_cache
        >>> found = overview(small_cache())
        >>> [(group.name, group.row, group.rows, group.nbytes) for group in found.groups]
        [('resid_out_0', '[2]', 6, 48)]
    """
    exact = all(_files(one) <= FEW_FILES for one in cache.datasets)
    grouped: dict[tuple[str, ...], list[tuple[str, Segments]]] = {}
    for key, segments in cache.segments.items():
        grouped.setdefault(_alike(key, segments), []).append((key, segments))
    chosen = _with_norms(grouped) if norms else set()
    groups = [
        _group(kind, members, exact=exact, norms=kind in chosen)
        for kind, members in grouped.items()
    ]
    places = tuple(_place(one, exact=exact) for one in cache.datasets)
    return Overview(places, tuple(groups), len(cache))


def _with_norms(grouped: Mapping[tuple[str, ...], Sequence[Any]]) -> set[tuple[str, ...]]:
    """Return the groups whose norms are shown."""
    layers = [kind for kind, members in grouped.items() if kind[1] and len(members) > 1]
    stream = [kind for kind in layers if kind[0].rpartition(".")[2].startswith(STREAM)]
    chosen, left = set(), NORM_SITES
    for kind in stream or layers:
        if len(grouped[kind]) <= left:
            chosen.add(kind)
            left -= len(grouped[kind])
    return chosen


def _files(sites: StoredSites) -> int:
    return len(sites.sites) * len(sites.snapshot.commits)


def _pattern(key: str) -> str:
    return _NUMBER.sub("*", key)


def _alike(key: str, segments: Segments) -> tuple[str, ...]:
    """Return what the keys of a group have in common: pattern of the name, table, what, row."""
    stored = segments.stored
    if not stored or not segments.is_stored:
        return _pattern(key), "", segments.pending_shape() or described(segments.value()), ""
    part = stored[0]
    spec = part.sites.sites[part.name]
    dtype = spec.dtype if part.dtype is None else dtype_name(part.dtype)
    row = str(list(spec.shape)).replace("-1", "keys")
    return _pattern(key), spec.table, f"{dtype}, computed" * _is_computed(part) or dtype, row


def _is_computed(part: StoredSite) -> bool:
    return part.sites.sites[part.name].layout == COMPUTED


def _group(
    kind: tuple[str, ...],
    members: Sequence[tuple[str, Segments]],
    *,
    exact: bool,
    norms: bool,
) -> Group:
    _, table, what, row = kind
    keys = tuple(key for key, _ in members)
    if not table:
        nbytes = sum(segments_bytes(one) for _, one in members)
        return Group(keys, "", what, "", None, nbytes, bounded=False, norms=())
    rows = [sum(_rows(part, exact=exact) for part in one.stored) for _, one in members]
    sizes = [_bytes(part, exact=exact) for _, one in members for part in one.stored]
    return Group(
        keys,
        table,
        what,
        row,
        max(rows),
        None if None in sizes else sum(size or 0 for size in sizes),
        bounded=not exact or len(set(rows)) > 1,
        norms=tuple(_norms(members)) if norms else (),
    )


def _rows(part: StoredSite, *, exact: bool) -> int:
    if exact or part.sites.restriction is not None:
        return part.sites.rows(part.name)
    return part.sites.snapshot.rows(part.sites.sites[part.name].table)


def _bytes(part: StoredSite, *, exact: bool) -> int | None:
    """Return the bytes of the rows of a site that are here; None of rows of unknown width."""
    if _is_computed(part):
        return 0
    if exact and part.sites.restriction is None:
        return part.sites.stored_bytes(part.name)
    spec = part.sites.sites[part.name]
    return None if -1 in spec.shape else _rows(part, exact=exact) * spec.row_bytes


def _norms(members: Sequence[tuple[str, Segments]]) -> Iterator[float]:
    """Yield the norm of each key; nothing at all where one is not known."""
    try:
        found = [_norm(one.stored) for _, one in members]
    except LazycacheError:
        # whoever asks for the statistics hears of it; a look at a cache does not fail for them
        return
    known = [norm for norm in found if norm is not None]
    if len(known) == len(found) and any(map(math.isfinite, known)):
        yield from known


def _norm(parts: Sequence[StoredSite]) -> float | None:
    squares, rows = 0.0, 0
    for part in parts:
        norm = rms_norm(part.sites, part.name)
        if norm is None:
            return None
        count = part.sites.rows(part.name)
        squares, rows = squares + norm * norm * count, rows + count
    return math.sqrt(squares / rows) if rows else None


def _place(sites: StoredSites, *, exact: bool) -> Place:
    snapshot = sites.snapshot
    counted = ((table, snapshot.rows(table)) for table in snapshot.tables)
    return Place(
        sites.url,
        sites.version,
        tuple(snapshot.runs),
        tuple((table, rows) for table, rows in counted if rows),
        sum(length for _, length in snapshot.paths()) if exact else None,
        tuple(condition for condition, _ in sites.address.where),
    )


def span(norms: Sequence[float]) -> str:
    """Return the least and the greatest of some norms: `4.1 to 812`.

    Example:
        >>> span([1.0, 3.5, float("nan")])
        '1 to 3.5'
    """
    finite = [norm for norm in norms if math.isfinite(norm)]
    return f"{number(_short(min(finite)))} to {number(_short(max(finite)))}"


def _short(value: float) -> float:
    return float(f"{value:.3g}")
