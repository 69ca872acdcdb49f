"""The shards of one snapshot, open: mapped where they are files of this machine, else fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lazycache.cache.files.fetched_tiles import FetchedTiles
from lazycache.cache.files.mapped_shards import MappedShards
from lazycache.cache.files.maps import MapCache
from lazycache.cache.files.placed_rows import PlacedRows
from lazycache.cache.files.ragged_shards import FetchedRagged, MappedRagged, RaggedShards
from lazycache.cache.files.shards import Shards
from lazycache.cache.files.tiled_shards import MappedTiles, RangesOnly
from lazycache.cache.selecting.plan import SitePlan
from lazycache.cache.selecting.units import Units
from lazycache.storage.known_files import KnownFiles
from lazycache.storage.store import Store
from lazycache.types import RAGGED, IoCounters


class OpenShards:
    """Says what reads the shards of a site: by where they are, and by how rows lie in them.

    Args:
        store: Where the files are.
        maps: Maps those that are on this machine.
        files: Gives ranges of the others.
        io: Counts what is read.
        check: Whether chunks are compared with their checksums.
        max_gap: Bytes between ranges that are fetched as one.
    """

    def __init__(
        self,
        store: Store,
        maps: MapCache,
        files: KnownFiles,
        io: IoCounters,
        *,
        check: bool,
        max_gap: int,
    ) -> None:
        self._store = store
        self._mapped = MappedShards(maps, io, check=check)
        tiles = MappedShards(maps, RangesOnly(io), check=check)
        self._mapped_tiles = MappedTiles(self._mapped, tiles, io)
        self.fetched = FetchedTiles(files, io, check=check, max_gap=max_gap)
        """Reads the shards that are elsewhere."""
        self._mapped_ragged = MappedRagged(self._mapped, io)
        self._fetched_ragged = FetchedRagged(self.fetched, files, io, max_gap=max_gap)
        self._local: bool | None = None

    def are_near(self, plan: SitePlan) -> bool:
        """Whether the shards are files of this machine."""
        if self._local is None and plan.shards:
            # a store is on this machine or it is not: asked once
            self._local = self._store.local_path(plan.shards[0].path) is not None
        return bool(self._local)

    def of(self, plan: SitePlan) -> Shards:
        """Return what reads rows of one shape, wherever they are."""
        return self.near(plan) if self.are_near(plan) else self.fetched

    def near(self, plan: SitePlan) -> MappedShards | MappedTiles:
        """Return what reads them where they are files of this machine."""
        return self._mapped_tiles if plan.tilings else self._mapped

    def ragged(self, plan: SitePlan) -> RaggedShards:
        """Return what reads rows that differ in width, wherever they are."""
        return self._mapped_ragged if self.are_near(plan) else self._fetched_ragged

    def will_need(
        self, plan: SitePlan, spans: Sequence[tuple[int, int]]
    ) -> Callable[[], None] | None:
        """Have rows read from the disk, where they are simply in files; see `MappedShards`."""
        if not self.are_near(plan) or plan.tilings:
            return None
        return self._mapped.will_need(plan, spans)

    def place(
        self, plan: SitePlan, rows: np.ndarray, *, units: Units, scattered: bool
    ) -> PlacedRows | None:
        """Look up where rows are; None where they are not simply in files of this machine."""
        if not self.are_near(plan) or plan.tilings or plan.spec.layout == RAGGED:
            return None
        return self._mapped.place(plan, rows, units=units, scattered=scattered)
