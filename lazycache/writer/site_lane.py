"""One site on its way to disk: parts to chunks, chunks to shards. Used by one worker thread."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lazycache.codec.shard import ShardEncoder
from lazycache.codec.tiles import fitting_tile
from lazycache.storage.layout import shard_path, stats_path
from lazycache.storage.store import Store, Upload
from lazycache.types import ChunkRef, ShardRef, SiteSpec
from lazycache.writer.chunks import OpenChunk, chunk_room, cut
from lazycache.writer.parts import SitePart
from lazycache.writer.settings import Settings
from lazycache.writer.statistics import ShardStatistics, has_statistics


@dataclass(slots=True)
class _OpenShard:
    """A file being written."""

    path: str
    row_start: int
    upload: Upload
    encoder: ShardEncoder
    statistics: ShardStatistics | None
    chunks: list[ChunkRef] = field(default_factory=list)


class SiteLane:
    """Writes the rows of one site; holds at most one open chunk and one open file.

    Args:
        spec: what the site is.
        store: where the dataset is.
        settings: how large chunks and files become.
        free: told the bytes of parts that are written.
        covers: version of the earlier commit whose rows these are; None: they are rows of the
            commit that will name the files. Rows are counted from the first one of that commit.
    """

    def __init__(
        self,
        spec: SiteSpec,
        *,
        store: Store,
        settings: Settings,
        free: Callable[[int], None],
        covers: int | None = None,
    ) -> None:
        self._covers = covers
        self._spec = spec
        self._store = store
        self._settings = settings
        self._free = free
        self._chunk = OpenChunk()
        self._shard: _OpenShard | None = None
        self._row = 0  # of the commit: the first one that is not written
        self._done: list[ShardRef] = []

    @property
    def held(self) -> int:
        """Bytes of budget that `flush` would free."""
        return self._chunk.held

    @property
    def length(self) -> int:
        """Bytes of the open file; 0 if there is none."""
        return self._shard.encoder.length if self._shard else 0

    def add(self, part: SitePart, *, row_start: int, sites: int) -> None:
        """Take rows over; write the chunks that they fill.

        Args:
            part: the rows.
            row_start: their first row in the commit; beyond the last one's end are rows that the
                site lacks.
            sites: how many share the queue.
        """
        if row_start != self._row + self._chunk.rows:  # batches without this site: rows it lacks
            self.flush()
            self.roll()
            self._row = row_start
        room = chunk_room(
            self._spec,
            chunk_rows=self._settings.chunk_rows,
            queue_bytes=self._settings.queue_bytes,
            sites=sites,
        )
        if self._chunk.is_full(room):  # it was larger while there were fewer sites
            self.flush()
        for number, piece in enumerate(cut(part, left=self._chunk.left(room), room=room)):
            if number:
                self.flush()
            self._chunk.add(piece)
        if self._chunk.is_full(room):
            self.flush()

    def flush(self) -> None:
        """Write the open chunk, whatever its size."""
        if not self._chunk.rows:
            return
        chunk, self._chunk = self._chunk, OpenChunk()
        shard = self._shard_with_room(chunk.nbytes)
        ref = shard.encoder.add_chunk([piece.values for piece in chunk.pieces], chunk.index())
        shard.chunks.append(ref)
        if shard.statistics is not None:
            shard.statistics.add([(piece.values, piece.rows) for piece in chunk.pieces])
        self._row += chunk.rows
        chunk.pieces.clear()  # memory first, then the budget
        self._free(chunk.held)

    def roll(self) -> None:
        """Finish the open file; the next chunk begins another."""
        if self._shard is None:
            return
        shard = self._shard
        shard.encoder.finish()
        shard.upload.finish()
        # named already: the writer deletes it if its statistics fail
        self._done.append(self._ref(shard))
        if shard.statistics is not None:
            self._done[-1] = replace(self._done[-1], stats=shard.statistics.finish())
        self._shard = None

    def _ref(self, shard: _OpenShard) -> ShardRef:
        return ShardRef(
            site=self._spec.name,
            path=shard.path,
            length=shard.encoder.length,
            rows=shard.encoder.rows,
            row_start=shard.row_start,
            covers=self._covers,
            chunks=tuple(shard.chunks),
            tile=shard.encoder.tile,
        )

    def finish(self) -> list[ShardRef]:
        """Write all there is and return the files of the transaction; start the next one."""
        self.flush()
        self.roll()
        self._row = 0
        return self.take()

    def take(self) -> list[ShardRef]:
        """Return the finished files and forget them."""
        done, self._done = self._done, []
        return done

    def abort(self) -> None:
        """Drop what is open."""
        self._chunk = OpenChunk()
        if self._shard is not None:
            shard, self._shard = self._shard, None
            shard.upload.abort()
            if shard.statistics is not None:
                shard.statistics.abort()

    def _shard_with_room(self, nbytes: int) -> _OpenShard:
        if self._shard and self._shard.encoder.length + nbytes > self._settings.shard_bytes:
            self.roll()
        if self._shard is None:
            self._shard = self._open()
        return self._shard

    def _open(self) -> _OpenShard:
        name, unique, rank = self._spec.name, uuid.uuid4().hex, self._settings.rank
        path = shard_path(name, unique=unique, rank=rank)
        upload = self._store.create(path)
        tile = fitting_tile(self._spec, self._settings.tiles.get(name))
        encoder = ShardEncoder(self._spec, write=upload.write, tile=tile)
        statistics = self._statistics(stats_path(name, unique=unique, rank=rank))
        return _OpenShard(path, self._row, upload, encoder, statistics)

    def _statistics(self, path: str) -> ShardStatistics | None:
        size = self._settings.shard_bytes
        if not self._settings.statistics or not has_statistics(self._spec, shard_bytes=size):
            return None
        return ShardStatistics(self._spec, path, create=self._store.create, shard_bytes=size)
