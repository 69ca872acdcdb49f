"""Statistics in memory: as they were read, and of many shards one number of each unit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from lazycache.cache.selecting.plan import SitePlan
from lazycache.codec.statistics import (
    BLOCK_COLUMNS,
    TOP_COLUMNS,
    ZONE_COLUMNS,
    ChunkStatistics,
    TopRows,
    Zones,
    read_blocks,
    read_top,
    read_zones,
)
from lazycache.storage.known_files import KnownFiles, checked
from lazycache.types import IoCounters, ShardRef, StatsPart

KEPT_BYTES = 128 << 20
"""Statistics that a reader keeps in memory as they were read."""

MATRIX_BYTES = 128 << 20
"""Memory for matrices of one number of each unit, beside them."""

Read = ChunkStatistics | TopRows | Zones


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """One number of each unit for blocks or parts of a site, as far as they were asked for."""

    values: torch.Tensor
    """[n, units]."""
    there: np.ndarray
    """bool[n]: which rows of it are filled in. They are filled before this says so."""


@dataclass(slots=True, eq=False)
class _Held:
    found: Read
    nbytes: int
    turn: int
    """When it was used last."""


class Kept:
    """Statistics in memory, the ones used longest ago first to go. Thread-safe.

    What does not fit beside those that were used in the same turn is not kept: a pass over more
    than there is room for finds the first of it again the next time, where it would otherwise have
    driven out each one before it is asked for again.
    """

    def __init__(self, files: KnownFiles, io: IoCounters) -> None:
        self._files = files
        self._io = io
        self._held: OrderedDict[tuple[str, str], _Held] = OrderedDict()
        self._matrices: OrderedDict[tuple[str, str], Matrix] = OrderedDict()
        self._bytes = self._turn = 0
        self._lock = threading.Lock()

    def begin(self, plan: SitePlan, wanted: Iterable[tuple[str, int]]) -> tuple[int, int]:
        """Begin a pass over statistics, kinds and shards; return its turn and how many it reads."""
        lacking = 0
        with self._lock:
            self._turn += 1
            for kind, shard in wanted:
                held = self._held.get((kind, plan.shards[shard].path))
                lacking += held is None
                if held is not None:
                    held.turn = self._turn
            return self._turn, lacking

    def blocks(self, plan: SitePlan, shard: int, turn: int) -> ChunkStatistics:
        """Return the statistics of a shard that has them.

        Raises:
            CorruptShardError: they are not what the log recorded.
        """
        ref = plan.shards[shard]
        assert ref.stats is not None
        found = self._get("blocks", ref, ref.stats.blocks, plan, turn)
        assert isinstance(found, ChunkStatistics)
        return found

    def top(self, plan: SitePlan, shard: int, turn: int) -> TopRows:
        """Return the greatest values of a shard that has them; raises as `blocks`."""
        ref = plan.shards[shard]
        assert ref.stats is not None
        found = self._get("top", ref, ref.stats.top, plan, turn)
        assert isinstance(found, TopRows)
        return found

    def zones(self, plan: SitePlan, shard: int, part: int, turn: int) -> Zones:
        """Return the zones of one part of a shard that has them; raises as `blocks`."""
        ref = plan.shards[shard]
        assert ref.stats is not None
        found = self._get(f"zones {part}", ref, ref.stats.zones[part], plan, turn)
        assert isinstance(found, Zones)
        return found

    @property
    def extra_bytes(self) -> int:
        """How many more bytes may be read with each part than it has."""
        return self._files.extra_bytes

    def lacks(self, kind: str, path: str) -> bool:
        """Whether some kind of a shard has to be read first."""
        return (kind, path) not in self._held

    def matrix(self, plan: SitePlan, name: str, rows: int) -> Matrix | None:
        """Return a matrix with a row for each block or part of a site, first an empty one.

        None if it takes more memory than there is for all of them.
        """
        key = plan.spec.name, name
        units = int(np.prod(plan.spec.shape, dtype=np.int64))
        if rows * units * plan.dtype.itemsize > MATRIX_BYTES:
            return None
        with self._lock:
            found = self._matrices.pop(key, None)
            if found is None:
                values = torch.empty((rows, units), dtype=plan.dtype.torch, device="cpu")
                found = Matrix(values, np.zeros(rows, dtype=np.bool_))
            self._matrices[key] = found
            while sum(one.values.nbytes for one in self._matrices.values()) > MATRIX_BYTES:
                self._matrices.popitem(last=False)
        return found

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._held.clear()
            self._matrices.clear()
            self._bytes = 0

    def _get(
        self, kind: str, ref: ShardRef, part: StatsPart | None, plan: SitePlan, turn: int
    ) -> Read:
        key = kind, ref.path
        with self._lock:
            known = self._held.get(key)
            if known is not None:
                known.turn = turn
                self._held.move_to_end(key)
                return known.found
        assert part is not None
        stats = ref.stats
        assert stats is not None, "it has the part"
        found = checked(self._files, stats, lambda: self._read(kind, ref, part, plan))
        self._keep(key, _Held(found, _nbytes(found), turn))
        return found

    def _read(self, kind: str, ref: ShardRef, part: StatsPart, plan: SitePlan) -> Read:
        stats = ref.stats
        assert stats is not None, "it has the part"

        def get_ranges(_: str, ranges: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
            got = self._files.get_ranges(stats, ranges)
            self._io.add_statistics(requests=got.requests, nbytes=got.nbytes, cached=got.cached)
            return got.parts

        found: Read | None
        if kind == "blocks":
            found = read_blocks(ref, plan.spec, get_ranges)
        elif kind == "top":
            found = read_top(ref, plan.spec, get_ranges)
        else:
            found = read_zones(ref, plan.spec, get_ranges, parts=[part])
        assert found is not None, "it has the part"
        return found

    def _keep(self, key: tuple[str, str], one: _Held) -> None:
        with self._lock:
            if key in self._held:
                return
            while self._held and self._bytes + one.nbytes > KEPT_BYTES:
                oldest = next(iter(self._held))
                if self._held[oldest].turn == one.turn:
                    return
                self._bytes -= self._held.pop(oldest).nbytes
            self._held[key] = one
            self._bytes += one.nbytes


def columns_of(kind: str) -> tuple[str, ...]:
    """Return the matrices of `blocks`, `top` or `zones ...`."""
    return {"blocks": BLOCK_COLUMNS, "top": TOP_COLUMNS}.get(kind, ZONE_COLUMNS)


def _nbytes(found: Read) -> int:
    return sum(int(getattr(found, field.name).nbytes) for field in fields(found))
