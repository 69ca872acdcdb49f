"""The examples of one run as they are stored: where their rows are, and which tokens they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lazycache.catalog.snapshot import PlacedShard, Snapshot
from lazycache.codec.tables import decode_table
from lazycache.errors import CaptureError, CorruptShardError
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, TOKENS


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of each example of a run in one table, in storage order of the examples."""

    commit: np.ndarray
    """int64[examples]: version of the commit that added them."""
    start: np.ndarray
    """int64[examples]: the first of them, counted from the first row of that commit."""
    row: np.ndarray
    """int64[examples]: the same, counted from the first row of the table."""
    count: np.ndarray
    """int64[examples]: how many; 0 where none was kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The stored tokens of one example."""

    example: int
    """Its id."""
    positions: np.ndarray
    """int32[rows], ascending."""
    token_ids: np.ndarray
    """int64[rows]."""


class StoredExamples:
    """The examples that a run has committed, in storage order: that of the batches they were in.

    Args:
        store: Where the dataset is.
        snapshot: What it holds.
        run: Name of the run.

    Raises:
        CaptureError: an example whose rows lie in several places, so that they have no one order.

    Cost: looks at the log; 80 bytes of memory for each example.
    """

    def __init__(self, store: Store, snapshot: Snapshot, *, run: str) -> None:
        self._store = store
        self._snapshot = snapshot
        self._run = run
        self.ids, self.examples = self._rows_of(EXAMPLES)
        """Ids in storage order, and their rows in `examples`."""
        self._order = np.argsort(self.ids)
        ids, rows = self._rows_of(TOKENS)
        self.tokens = self._aligned(ids, rows)
        """Their rows in `tokens`."""

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ids)

    def at(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the number of each of these examples in storage order; -1 of one that is not."""
        asked = np.asarray(ids, np.int64)
        if not len(self):
            return np.full(len(asked), -1)
        place = np.searchsorted(self.ids, asked, sorter=self._order)
        found: np.ndarray = self._order[np.minimum(place, len(self) - 1)]
        return np.where(self.ids[found] == asked, found, -1)

    def covered(self, site: str) -> np.ndarray:
        """Return bool[examples]: which of them a site has values for already."""
        spec = self._snapshot.sites.get(site)
        if spec is None:
            return np.zeros(len(self), dtype=bool)
        rows = self.tokens if spec.table == TOKENS else self.examples
        starts, stops = _ranges(self._snapshot.shards(site))
        at = np.searchsorted(starts, rows.row, side="right") - 1
        inside: np.ndarray = np.zeros(len(self), dtype=bool)
        if len(starts):
            inside = (at >= 0) & (rows.row + rows.count <= stops[np.maximum(at, 0)])
        inside |= rows.count == 0
        return inside

    def sequences(self) -> Iterator[Tokens]:
        """Give the stored tokens of the examples that have any, in storage order.

        Cost: reads the files of the table one by one.

        Raises:
            CaptureError: the ids of tokens were not stored: the model was given something else.
        """
        for file in self._snapshot.table_files(TOKENS):
            if file.run != self._run:
                continue
            if "token_id" not in file.ref.columns:
                raise CaptureError(
                    f"Run {self._run!r} has no token ids: its model was given embeddings or "
                    "features. Its rows cannot be told apart; capture the site in another run."
                )
            rows = decode_table(self._store.get(file.ref.path))
            positions, ids = (rows[name].to_numpy() for name in ("position", "token_id"))
            start = 0
            for example, length in zip(file.ref.examples, file.ref.lengths, strict=True):
                stop = start + int(length)
                yield Tokens(int(example), positions[start:stop], ids[start:stop])
                start = stop

    def _rows_of(self, table: str) -> tuple[np.ndarray, Rows]:
        own = [file for file in self._snapshot.table_files(table) if file.run == self._run]
        empty = np.empty(0, np.int64)
        ids, commits, rows, firsts, counts = [empty], [empty], [empty], [empty], [empty]
        for file in own:
            lengths = file.ref.lengths
            before = np.cumsum(lengths) - lengths
            ids.append(file.ref.examples)
            commits.append(np.full(len(lengths), file.base, np.int64))
            rows.append(before + file.row_start)
            firsts.append(before + file.ref.row_start)
            counts.append(lengths)
        found = np.concatenate(ids)
        if len(np.unique(found)) < len(found):
            raise CaptureError(
                f"Run {self._run!r} has examples whose rows lie in several places of "
                f"{table!r}: nothing can be added to them later."
            )
        joined = (np.concatenate(parts) for parts in (commits, firsts, rows, counts))
        return found, Rows(*joined)

    def _aligned(self, ids: np.ndarray, rows: Rows) -> Rows:
        """Bring rows of `tokens` into the order of the examples; those without rows have 0."""
        at = self.at(ids)
        if (at < 0).any():
            raise CorruptShardError(
                f"Example {ids[at < 0][0]} of run {self._run!r} has tokens, but is no example."
            )
        if (np.diff(at) < 0).any():
            raise CaptureError(
                f"The tokens of run {self._run!r} are not in the order of its examples: nothing "
                "can be added to them later."
            )
        columns = []
        for values in (rows.commit, rows.start, rows.row, rows.count):
            whole = np.zeros(len(self), np.int64)
            whole[at] = values
            columns.append(whole)
        return Rows(*columns)


def _ranges(shards: Sequence[PlacedShard]) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last rows of what shards cover, those that follow each other as one."""
    ranges: list[list[int]] = []
    for shard in shards:
        if ranges and ranges[-1][1] == shard.row_start:
            ranges[-1][1] = shard.row_stop
        else:
            ranges.append([shard.row_start, shard.row_stop])
    starts, stops = np.array(ranges, np.int64).reshape(-1, 2).T
    return starts, stops
