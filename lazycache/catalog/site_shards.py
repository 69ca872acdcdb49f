"""The shards of one site: where their rows are, and the checks that each passes. Pure."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

from lazycache.catalog.chains import Packed, Ref, Segment
from lazycache.catalog.parts import Parts
from lazycache.catalog.placing import check_shard
from lazycache.catalog.statistics_records import check_statistics
from lazycache.errors import CorruptShardError
from lazycache.types import ShardRef, SiteSpec


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A shard and where its rows are in its table."""

    ref: ShardRef
    """The shard as its commit names it."""
    row_start: int
    """Its first row, counted from the first row of the table."""
    version: int
    """Version of the commit that names it."""

    @property
    def base(self) -> int:
        """Version of the commit whose first row its own `row_start` counts from."""
        return self.version if self.ref.covers is None else self.ref.covers

    @property
    def row_stop(self) -> int:
        """The row after its last."""
        return self.row_start + self.ref.rows


def checked(ref: Ref, site: SiteSpec) -> ShardRef:
    """Return a file if it can be a shard of a site.

    Raises:
        CorruptShardError: says what cannot be.
    """
    if not isinstance(ref, ShardRef) or ref.site != site.name:
        raise CorruptShardError(f"{ref.path!r} is no shard of site {site.name!r}.")
    check_shard(ref, site)
    check_statistics(ref, site)
    return ref


def insert(placed: list[PlacedShard], shard: PlacedShard) -> None:
    """Add a shard to those in row order; nearly always the new one is the last.

    Raises:
        CorruptShardError: another one has rows of its.
    """
    at = len(placed)
    if placed and placed[-1].row_start > shard.row_start:
        at = bisect(placed, shard.row_start, key=attrgetter("row_start"))
    for other in placed[max(0, at - 1) : at + 1]:
        _check_apart(other, shard)
    placed.insert(at, shard)


def _check_apart(a: PlacedShard, b: PlacedShard) -> None:
    if a.row_start < b.row_stop and b.row_start < a.row_stop:
        raise CorruptShardError(
            f"{b.ref.path!r} and {a.ref.path!r} cover the same rows of {b.ref.site!r}."
        )


def packed_shards(
    site: SiteSpec, segments: Sequence[Segment], *, parts: Parts
) -> Packed[PlacedShard]:
    """Return the shards that segments name, whose table has these rows."""

    def make(ref: Ref, start: int, version: int) -> PlacedShard | None:
        shard = checked(ref, site)
        return PlacedShard(shard, start, version) if shard.rows else None

    return Packed(("site", site.name), segments, parts=parts, make=make, check=_check_all_apart)


def _check_all_apart(placed: Sequence[PlacedShard]) -> None:
    for a, b in pairwise(placed):
        _check_apart(a, b)
