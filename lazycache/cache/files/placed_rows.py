"""Rows of a site whose places in memory maps were looked up once, to be copied part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice

import numpy as np
import torch

from lazycache.cache.files.gather import as_tensor, gather_rows
from lazycache.cache.files.maps import MapCache, MappedShard
from lazycache.cache.files.readahead import read_ahead
from lazycache.cache.selecting.plan import SitePlan, blocks, count_ranges
from lazycache.cache.selecting.units import Units
from lazycache.types import IoCounters, ShardRef

_LOOKED_AT = 64
"""Files that are looked at before each copy: all of them in turn, where there are more."""


class PlacedRows:
    """Rows in some order, each at its address; keeps the maps they are in, whatever is evicted.

    Not for several threads at once.
    """

    def __init__(
        self,
        plan: SitePlan,
        addresses: np.ndarray,
        *,
        units: Units,
        held: Sequence[tuple[ShardRef, MappedShard]],
        maps: MapCache,
        io: IoCounters,
        scattered: bool,
    ) -> None:
        self._plan = plan
        self._addresses = addresses
        self._units = units
        self._held = held
        self._turn = cycle(held)
        self._maps = maps
        self._io = io
        self._scattered = scattered

    def take(self, rows: slice, room: Callable[[int], np.ndarray]) -> torch.Tensor:
        """Copy the rows at a slice, one at least, into what `room(bytes)` gives: [n, *units].

        Cost: one copy, and a look at up to 64 of the files.

        Raises:
            CorruptShardError: a file is not there any more, or is shorter than it was.
        """
        for ref, mapped in islice(self._turn, min(_LOOKED_AT, len(self._held))):
            self._maps.look(ref, mapped)
        addresses, plan = self._addresses[rows], self._plan
        ascending = np.sort(addresses)
        if self._scattered:
            read_ahead(ascending, row_bytes=plan.spec.row_bytes)
        raw = room(len(addresses) * self._units.count * plan.dtype.itemsize)
        copy_rows(addresses, plan, units=self._units, maps=self._maps, out=raw)
        requests = count_ranges(ascending, row_bytes=plan.spec.row_bytes)
        self._io.add(requests=requests, rows=len(addresses), nbytes=raw.nbytes)
        return as_tensor(raw, plan.dtype.torch, (len(addresses), *self._units.shape))


def copy_rows(
    addresses: np.ndarray,
    plan: SitePlan,
    *,
    units: Units,
    maps: MapCache,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Copy rows at addresses, to `out` or new memory: uint8[n * bytes of the units].

    No more of the maps becomes resident than may be.
    """
    residency, row_bytes, itemsize = maps.residency, plan.spec.row_bytes, plan.dtype.itemsize
    at_once, size = residency.ranges_at_once(), units.count * itemsize
    if len(addresses) <= at_once:
        raw = gather_rows(addresses, row_bytes=row_bytes, itemsize=itemsize, units=units, out=out)
        residency.touched(0, ranges=len(addresses))
        return raw
    raw = np.empty(len(addresses) * size, dtype=np.uint8) if out is None else out
    for start, stop in blocks(len(addresses), size=at_once):
        gather_rows(
            addresses[start:stop],
            row_bytes=row_bytes,
            itemsize=itemsize,
            units=units,
            out=raw[start * size : stop * size],
        )
        residency.touched(0, ranges=stop - start)
    return raw
