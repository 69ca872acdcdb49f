"""Sites that are not stored but follow from one that is: `head_out_L` from `z_L`. Pure.

What each head adds to the residual stream is its `z` times its block of the output projection. A
run that captured it keeps these blocks once, as the array `head_out_L.weight`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from lazycache.catalog.natural import natural_key
from lazycache.catalog.run_info import info_of, is_linear, subset_of
from lazycache.types import RAGGED, ArrayRef, SiteSpec

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot

COMPUTED = "computed"
"""Layout of sites that have no shards."""

_SOURCE = re.compile(r"(?P<prefix>encoder\.|decoder\.|)z_(?P<layer>0|[1-9][0-9]*)")


@dataclass(frozen=True, eq=False)
class ComputedSite:
    """One site that is computed when it is read. Without slots, for what is worked out once."""

    spec: SiteSpec
    """What a row is; its layout is `computed`."""
    source: str
    """The stored site: [heads, d_head] per row."""
    arrays: Mapping[str, ArrayRef]
    """By name of the run, the matrix of each head: [heads, d_head, d_model]."""
    heads: Mapping[str, tuple[int, ...] | None]
    """By name of the run, which heads were stored, in order; None for all."""
    snapshot: Snapshot = field(repr=False)
    """Where it is."""

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First rows and stops of what there is: rows of the source in runs with an array."""
        return tuple(_spans(self.snapshot, self.snapshot.sites[self.source], self.arrays))

    @property
    def rows(self) -> int:
        """Rows that it has values for."""
        return sum(stop - start for start, stop in self.spans)


def computed_sites(snapshot: Snapshot) -> dict[str, ComputedSite]:
    """Return the sites of a snapshot that are computed, by name in natural order.

    A stored site of the same name comes first. Costs time in proportion to sites and runs.

    Example:
        >>> from lazycache.catalog.snapshot import Snapshot
        >>> from lazycache.types import Identity
        >>> computed_sites(Snapshot.replay(Identity(1, "u", "now"), []))
        {}
    """
    found: dict[str, ComputedSite] = {}
    for name, spec in snapshot.sites.items():
        match = _SOURCE.fullmatch(name)
        head_out = f"{match['prefix']}head_out_{match['layer']}" if match else name
        if match is None or head_out in snapshot.sites or not _has_heads(spec):
            continue
        arrays = _arrays(snapshot, name, f"{head_out}.weight")
        if arrays:
            found[head_out] = _site(snapshot, head_out, spec, arrays)
    return {name: found[name] for name in sorted(found, key=natural_key)}


def all_sites(snapshot: Snapshot) -> dict[str, SiteSpec]:
    """Return the stored and the computed sites of a snapshot, by name in natural order."""
    specs = dict(snapshot.sites)
    specs.update((name, site.spec) for name, site in computed_sites(snapshot).items())
    return {name: specs[name] for name in sorted(specs, key=natural_key)}


def _has_heads(source: SiteSpec) -> bool:
    return source.layout != RAGGED and len(source.shape) == 2  # noqa: PLR2004  # [heads, d_head]


def _arrays(snapshot: Snapshot, source: str, name: str) -> dict[str, ArrayRef]:
    kept = {run: snapshot.array(run, name) for run in snapshot.runs}
    return {
        run: ref
        for run, ref in kept.items()
        # of three dimensions: anything else is no matrix for each head
        if ref is not None
        and len(ref.shape) == 3  # noqa: PLR2004
        # what is left of z after a maximum, say, has no head_out
        and is_linear(info_of(snapshot, run, source), source)
    }


def _site(
    snapshot: Snapshot, name: str, source: SiteSpec, arrays: Mapping[str, ArrayRef]
) -> ComputedSite:
    shape = (source.shape[0], next(iter(arrays.values())).shape[2])
    itemsize = source.row_bytes // math.prod(source.shape)
    spec = SiteSpec(
        name, source.table, source.dtype, shape, math.prod(shape) * itemsize, layout=COMPUTED
    )
    return ComputedSite(
        spec=spec,
        source=source.name,
        arrays=arrays,
        heads={run: subset_of(info_of(snapshot, run, source.name), source.name) for run in arrays},
        snapshot=snapshot,
    )


def _spans(
    snapshot: Snapshot, source: SiteSpec, arrays: Mapping[str, ArrayRef]
) -> Iterator[tuple[int, int]]:
    """Yield the rows that the source has and whose run, that of their table file, has an array."""
    ours = _merged(
        (file.row_start, file.row_start + file.ref.rows)
        for file in snapshot.table_files(source.table)
        if file.run in arrays
    )
    stored = _merged((s.row_start, s.row_stop) for s in snapshot.shards(source.name))
    mine, theirs = next(ours, None), next(stored, None)
    while mine is not None and theirs is not None:
        start, stop = max(mine[0], theirs[0]), min(mine[1], theirs[1])
        if start < stop:
            yield start, stop
        if mine[1] <= theirs[1]:
            mine = next(ours, None)
        else:
            theirs = next(stored, None)


def _merged(spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join ascending spans that touch."""
    held: tuple[int, int] | None = None
    for start, stop in spans:
        if held is not None and start == held[1]:
            held = (held[0], stop)
            continue
        if held is not None:
            yield held
        held = (start, stop)
    if held is not None:
        yield held
