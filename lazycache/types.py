"""What the stages hand to each other: frozen values, no behaviour, no I/O.

Read top to bottom this is the data flow: a forward pass becomes a `RowBatch`; a writer turns
batches into shard and table files and describes them in a `Commit`; a snapshot replays commits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

TOKENS = "tokens"
"""The row space with one row per kept token."""

EXAMPLES = "examples"
"""The row space with one row per example."""

DECODER_TOKENS = "decoder_tokens"
"""The row space with one row per kept token of the decoder of an encoder-decoder model."""

CALLS_OF: Mapping[str, str] = {
    TOKENS: "calls",
    EXAMPLES: "example_calls",
    DECODER_TOKENS: "decoder_calls",
}
"""Table to the row space of sites that one forward pass meets several times: a row for each call
and row of the table, calls in order, each with its rows in order."""

INDEX_COLUMNS: Mapping[str, tuple[str, ...]] = {
    TOKENS: ("example", "position"),
    EXAMPLES: ("example",),
    DECODER_TOKENS: ("example", "position"),
    "calls": ("example", "position", "call"),
    "example_calls": ("example", "call"),
    "decoder_calls": ("example", "position", "call"),
}
"""The columns that every shard of a table carries, so that its rows name themselves."""

WIDTH = "width"
"""The index column that shards of ragged sites carry beside those of their table."""

RAGGED = "ragged"
"""Layout of sites whose rows differ in width: one dimension of `SiteSpec.shape` is -1."""


def index_columns(site: SiteSpec) -> tuple[str, ...]:
    """Return the index columns of a site's shards, in file order."""
    columns = INDEX_COLUMNS[site.table]
    return (*columns, WIDTH) if site.layout == RAGGED else columns


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """What one site stores per row. The same for the whole dataset."""

    name: str
    """The name a user asks for: `resid_out_3`, or a raw module path `model.norm:out`."""
    table: str
    """The row space it is a column of, one of `INDEX_COLUMNS`."""
    dtype: str
    """Stored dtype by its torch name without prefix: `bfloat16`, `float32`, `int64`, ..."""
    shape: tuple[int, ...]
    """Shape of one row; `()` for a scalar per row. In a ragged site one dimension is -1: as wide as
    the row says."""
    row_bytes: int
    """Bytes of one row: item size times the product of `shape`; of a ragged site, of a row of
    width 1."""
    layout: str = "row"
    """`ragged`: rows of their own width lie one behind the other. `row`: all rows have one width;
    they are a row-major matrix, or cut into tiles (`ShardRef.tile`), which each shard says."""


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """Where one chunk (a Parquet row group) lies in its shard."""

    rows: int
    """Rows in the chunk."""
    value_offset: int
    """Byte offset of the first row's values; a multiple of 64. Row i is at + i * row_bytes. Of a
    tiled shard: where its first tile begins."""
    value_crc: int
    """CRC-32 of the value bytes: `rows * row_bytes`, or `width * row_bytes`. Of a tiled shard too
    it is that of the row-major values, so the same rows have it in every layout."""
    index_offsets: tuple[int, ...]
    """Byte offsets of the index columns' values, in the order of `index_columns(site)`."""
    width: int | None = None
    """Of a ragged site: widths of all rows together, so that the values have `width * row_bytes`
    bytes; else None."""
    tile_offsets: tuple[int, ...] = ()
    """Of a tiled shard: byte offset of each tile, ascending multiples of 64; else (). Tile t is a
    row-major matrix [rows, units t * tile to (t + 1) * tile of a row]; the last may be narrower."""
    tile_crcs: tuple[int, ...] = ()
    """Of a tiled shard: CRC-32 of the bytes of each tile."""


@dataclass(frozen=True, slots=True)
class StatsPart:
    """Where one row group of a statistics file lies, and its checksum."""

    rows: int
    """Blocks, zones or ranks: the rows of its matrices."""
    crc: int
    """CRC-32 of the bytes from its first matrix to the end of its last one."""
    offsets: tuple[int, ...]
    """Byte offsets of its matrices, multiples of 64; 0: it is not stored, all of it is zero."""


@dataclass(frozen=True, slots=True)
class StatsRef:
    """The statistics of one shard as a commit names them."""

    path: str
    """Relative to the dataset: `stats/<site>/<unique>-r<rank>.parquet`."""
    length: int
    """Bytes of the whole file."""
    chunks: tuple[int, ...]
    """How many chunks each block has, in order; () if there are no blocks."""
    blocks: StatsPart | None
    """Counts and moments of each block."""
    zones: tuple[StatsPart, ...]
    """Least and greatest of every 128 rows, in order; () if there are none."""
    top: StatsPart | None
    """The greatest values of the shard and their rows."""


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One immutable activation file as a commit names it."""

    site: str
    """The site whose rows it holds."""
    path: str
    """Relative to the dataset: `data/<site>/<unique>-r<rank>.parquet`."""
    length: int
    """Bytes of the whole file."""
    rows: int
    """Rows in all its chunks."""
    row_start: int
    """First row it covers, counted from the first row that `covers` added to the site's table."""
    covers: int | None
    """Version of the commit at whose first row `row_start` begins to count; its rows may go on into
    those of later commits. None: the commit that names this shard."""
    chunks: tuple[ChunkRef, ...]
    """Its chunks in row order."""
    stats: StatsRef | None = None
    """Its statistics; None: it has none."""
    tile: int | None = None
    """Units of a row in each tile, fewer than a row has; None: its chunks are not cut into tiles.
    Never of a ragged site."""


@dataclass(frozen=True, slots=True, eq=False)
class TableFileRef:
    """One immutable file of table rows as a commit names it."""

    table: str
    """The row space, one of `INDEX_COLUMNS`."""
    path: str
    """Relative to the dataset: `tables/<table>/<unique>-r<rank>.parquet`."""
    length: int
    """Bytes of the whole file."""
    rows: int
    """Rows in the file."""
    row_start: int
    """First row, counted from the first row that this commit adds to the table."""
    columns: Mapping[str, str]
    """Column name to type: `int64`, `int32`, `float64`, `bool`, `string`, `binary`, `json`."""
    examples: np.ndarray
    """Run-length form of the file's `example` column: int64[n], the example of each run of rows."""
    lengths: np.ndarray
    """Run-length form of the file's `example` column: int64[n], the rows of each run."""
    covers: int | None = None
    """Version of the commit at whose first row `row_start` begins to count, of a file that stands
    for files of earlier commits; None: the commit that names it, which adds its rows."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Files that a commit replaces by others with the same rows; they are no longer read."""

    site: str | None
    """The site whose shards they are; None of table files."""
    table: str | None
    """The table whose files they are; None of shards."""
    paths: tuple[str, ...]
    """The files."""


@dataclass(frozen=True, slots=True)
class Session:
    """One process that writes as a rank of a run; the last one to begin is the one that may."""

    rank: int
    """Its number among the processes of the run."""
    id: str
    """Unique; each start of the process has its own."""


@dataclass(frozen=True, slots=True)
class ArrayRef:
    """A tensor of the model that a run keeps once, because sites are computed from it on read."""

    name: str
    """Unique within the run: `head_out_3.weight`."""
    path: str
    """Relative to the dataset: `arrays/<name>/<unique>-r<rank>.parquet`."""
    length: int
    """Bytes of the whole file."""
    dtype: str
    """As in `SiteSpec`."""
    shape: tuple[int, ...]
    """Of the tensor; the first dimension counts the rows of the file."""
    value_offset: int
    """Byte offset of its values, row-major; a multiple of 64."""
    value_crc: int
    """CRC-32 of these bytes."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor of a value that was stored beside the sites."""

    dtype: str
    """As in `SiteSpec`."""
    shape: tuple[int, ...]
    """Of the tensor."""
    lead: int
    """How many of its dimensions count the rows of the file; the others are the shape of a row."""
    path: str | None
    """Relative to the dataset: `entries/<unique>.parquet`; None of a tensor without values."""
    length: int
    """Bytes of the whole file."""
    chunks: tuple[ChunkRef, ...]
    """Its row groups in order; without index columns."""


@dataclass(frozen=True, slots=True)
class EntryRef:
    """A value that was stored beside the sites, under a name as a commit names it."""

    name: str
    """The key of the cache."""
    tensors: tuple[TensorRef, ...]
    """The tensors in it, in the order in which its tree counts them."""
    path: str | None
    """Relative to the dataset: `entries/<unique>.json`; None: the value is its one tensor."""
    start: int
    """Byte offset of its tree in this file."""
    length: int
    """Bytes of the tree."""
    crc: int
    """CRC-32 of these bytes."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Who captured what, how: the provenance of a run."""

    name: str
    """Unique in the dataset; commits name it."""
    info: Mapping[str, Any]
    """JSON values: model, configuration, sites, selection, tokenizer, library versions, ..."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One record of the log: an atomic addition to the dataset."""

    version: int
    """1, 2, 3, ...: the snapshot that this commit makes."""
    txn: str
    """Unique id of the attempt, so that an ambiguous write can be recognised as ours."""
    writer: str
    """Who wrote it: host, process and rank, for people."""
    time: str
    """UTC, ISO 8601."""
    run: str
    """Name of the run that the rows belong to."""
    runs: tuple[RunInfo, ...] = ()
    """Runs declared by this commit."""
    sites: tuple[SiteSpec, ...] = ()
    """Sites declared by this commit; a repeated declaration must be equal."""
    tables: tuple[TableFileRef, ...] = ()
    """Table rows added by this commit."""
    shards: tuple[ShardRef, ...] = ()
    """Activations added by this commit."""
    arrays: tuple[ArrayRef, ...] = ()
    """Tensors of the model that this commit adds to its run."""
    entries: tuple[EntryRef, ...] = ()
    """Values that this commit stores beside the sites; of one name the last counts."""
    drops: tuple[Drop, ...] = ()
    """Files that other files of this commit stand for from now on."""
    removed: tuple[str, ...] = ()
    """Runs that are removed, with all rows that commits before this one gave them."""
    sealed: tuple[str, ...] = ()
    """Runs that are complete: nobody adds rows to them any more."""
    session: Session | None = None
    """Which process begins to write as a rank of `run` with this commit; None: nobody new."""
    writer_session: Session | None = field(default=None, compare=False)
    """The session of who makes this commit, begun here or before; not in the record."""
    expired: int = 0
    """Files that only versions before this one need may be gone; 0: nothing is said."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What `lazycache.json` says: written once when the dataset is created, never again."""

    version: int
    """Format version."""
    uuid: str
    """Names this dataset wherever it is copied to."""
    created: str
    """UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class TableBlock:
    """Rows of one table from one forward pass."""

    rows: int
    """How many."""
    columns: Mapping[str, np.ndarray | Sequence[Any]]
    """Column name to values. Always the index columns of the table: `example` as int64, `position`
    and `call` as int32."""


@dataclass(frozen=True, slots=True)
class SiteBlock:
    """Values of one site from one forward pass."""

    table: str
    """The table whose block of the same batch has these rows. Of a table of calls a site may have
    fewer: the first ones, as many calls as it had."""
    values: torch.Tensor
    """[rows, *shape] on the CPU, contiguous, detached, owned by nobody else; of a ragged site all
    rows one behind the other: [elements]."""
    shape: tuple[int, ...] | None = None
    """Of a ragged site: shape of a row with -1 for its width; None: `values.shape[1:]`."""
    widths: np.ndarray | None = None
    """Of a ragged site: int32[rows], the width of each row, at least 1; else None."""

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.values if self.widths is None else self.widths)


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Everything that one forward pass adds. Committed whole or not at all."""

    tables: Mapping[str, TableBlock]
    """Table name to its new rows."""
    sites: Mapping[str, SiteBlock]
    """Site name to its values."""

    @property
    def nbytes(self) -> int:
        """Bytes of the activations: what the batch costs in a queue."""
        return sum(block.values.nbytes for block in self.sites.values())


class Sink(Protocol):
    """What capture fills: a writer, or a list in a test."""

    def write(self, batch: RowBatch) -> None:
        """Take a batch over. May block until there is room; raises what the writer met."""
        ...

    def commit(self) -> int:
        """Make everything taken so far visible; return the version."""
        ...


@dataclass(slots=True)
class IoCounters:
    """What was read, counted: `cache.io`. Memory-mapped ranges count as requests too."""

    requests: int = 0
    """Ranges asked for: one per contiguous range of a shard. None for what the block cache had."""
    rows: int = 0
    """Rows handed out."""
    bytes: int = 0
    """Bytes asked for; of a store far away in whole blocks of the block cache."""
    cached_bytes: int = 0
    """Bytes that the block cache had, of shards and statistics; they are not in the others."""
    statistics_requests: int = 0
    """Ranges of stored statistics asked for, which are not in `requests`."""
    statistics_bytes: int = 0
    """Bytes of stored statistics asked for, which are not in `bytes`."""
    progress: bool = field(default=True, repr=False, compare=False)
    """Whether reads that take long show a bar; `cache.progress`."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, requests: int, rows: int, nbytes: int, cached: int = 0) -> None:
        """Count one read; safe from several threads."""
        with self._lock:
            self.requests += requests
            self.rows += rows
            self.bytes += nbytes
            self.cached_bytes += cached

    def add_statistics(self, *, requests: int, nbytes: int, cached: int = 0) -> None:
        """Count one read of stored statistics; safe from several threads."""
        with self._lock:
            self.statistics_requests += requests
            self.statistics_bytes += nbytes
            self.cached_bytes += cached

    def reset(self) -> None:
        """Start again from zero."""
        with self._lock:
            self.requests = self.rows = self.bytes = self.cached_bytes = 0
            self.statistics_requests = self.statistics_bytes = 0
