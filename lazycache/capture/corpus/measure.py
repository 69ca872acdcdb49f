"""What a few batches gave, counted and projected: what all of the work will give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from lazycache.capture.corpus.estimate import SiteEstimate, index_bytes
from lazycache.capture.corpus.work import Work
from lazycache.codec.tables import encode_table
from lazycache.types import EXAMPLES, RowBatch, SiteBlock, TableBlock


class Measure:
    """A sink that keeps no values: it adds up what some batches gave, and projects it.

    Example:
        >>> import numpy as np, torch
        >>> measure = Measure()
        >>> tables = {"examples": TableBlock(1, {"example": np.array([7]), "length": [5]}),
        ...           "tokens": TableBlock(5, {"example": np.array([7] * 5)})}
        >>> values = SiteBlock("tokens", torch.zeros(5, 4))
        >>> measure.write(RowBatch(tables, {"embed": values}))
        >>> site, = measure.sites(Work.of([5]).grown(4), ran=Work.of([5]))
        >>> site.rows, site.nbytes
        (20, 320)
    """

    def __init__(self) -> None:
        self._recorded: list[Work] = []
        self._tables: dict[str, list[TableBlock]] = {}
        self._rows: dict[str, list[int]] = {}  # of tables, in each batch
        self._sites: dict[str, _Seen] = {}

    def write(self, batch: RowBatch) -> None:
        """Count a batch."""
        self._recorded.append(work_of(batch))
        for rows in self._rows.values():
            rows.append(0)
        for table, block in batch.tables.items():
            before = [0] * len(self._recorded)
            self._rows.setdefault(table, before)[-1] = block.rows
            self._tables.setdefault(table, []).append(block)
        for name, values in batch.sites.items():
            known = self._sites.get(name)
            self._sites[name] = _Seen.of(values) if known is None else known.with_more(values)

    def commit(self) -> int:
        """Commit nothing."""
        return 0

    def nbytes(self, left: Work, *, ran: Work) -> int:
        """Return the bytes of all that so much work gives.

        Args:
            left: What is to be done.
            ran: What gave the batches that were counted.
        """
        sites = self.sites(left, ran=ran)
        values = sum(site.nbytes for site in sites)
        return values + index_bytes(sites) + self.table_bytes(left, ran=ran)

    def sites(self, left: Work, *, ran: Work) -> tuple[SiteEstimate, ...]:
        """Return what each site takes."""
        return tuple(self._site(name, left, ran) for name in self._sites)

    def tables(self, left: Work, *, ran: Work) -> dict[str, int]:
        """Return how many rows each table gets."""
        return {
            table: round(sum(rows) * self._growth(table, left, ran))
            for table, rows in self._rows.items()
        }

    def table_bytes(self, left: Work, *, ran: Work) -> int:
        """Return the bytes of the files of the tables.

        Cost: encodes the rows of the batches that were counted.
        """
        sizes = (
            len(encode_table(_joined(blocks))) * self._growth(table, left, ran)
            for table, blocks in self._tables.items()
        )
        return round(sum(sizes))

    def _site(self, name: str, left: Work, ran: Work) -> SiteEstimate:
        seen = self._sites[name]
        growth = self._growth(seen.table, left, ran)
        size = seen.nbytes * (self._width_growth(seen.table, left, ran) if seen.ragged else growth)
        rows = round(seen.rows * growth)
        return SiteEstimate(name, seen.table, seen.dtype, seen.shape, rows, round(size))

    def _growth(self, table: str, left: Work, ran: Work) -> float:
        """How many times as many rows `left` gives as `ran` did."""
        if self._goes_by_tokens(table):
            return left.tokens / ran.tokens if ran.tokens else 0.0
        return left.examples / ran.examples if ran.examples else 0.0

    def _width_growth(self, table: str, left: Work, ran: Work) -> float:
        """The same of bytes, where a row is as wide as its example is long."""
        if self._goes_by_tokens(table):
            return left.squares / ran.squares if ran.squares else 0.0
        return left.tokens / ran.tokens if ran.tokens else 0.0

    def _goes_by_tokens(self, table: str) -> bool:
        """Whether longer examples have more rows: not where each has equally many."""
        rows = self._rows[table]
        pairs = list(zip(rows, self._recorded, strict=True))
        if all(n == work.tokens for n, work in pairs):
            return True
        examples = sum(work.examples for work in self._recorded)
        return any(n * examples != sum(rows) * work.examples for n, work in pairs)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of a site."""

    table: str
    dtype: str
    shape: tuple[int, ...]
    ragged: bool
    rows: int
    nbytes: int

    @staticmethod
    def of(block: SiteBlock) -> _Seen:
        return _Seen(
            table=block.table,
            dtype=str(block.values.dtype).removeprefix("torch."),
            shape=tuple(block.values.shape[1:]) if block.shape is None else block.shape,
            ragged=block.widths is not None,
            rows=block.rows,
            nbytes=block.values.nbytes,
        )

    def with_more(self, block: SiteBlock) -> _Seen:
        return replace(self, rows=self.rows + block.rows, nbytes=self.nbytes + block.values.nbytes)


def work_of(batch: RowBatch) -> Work:
    """Return what the examples of a batch asked of the model: what their lengths say."""
    examples = batch.tables[EXAMPLES]
    lengths = examples.columns.get("length")
    return Work.of([1] * examples.rows if lengths is None else map(int, lengths))


def _joined(blocks: Sequence[TableBlock]) -> dict[str, list[Any]]:
    """Return the columns of several blocks as one; None where one lacks a column."""
    names = dict.fromkeys(name for block in blocks for name in block.columns)
    return {
        name: list(
            chain.from_iterable(block.columns.get(name, [None] * block.rows) for block in blocks)
        )
        for name in names
    }
