"""What a capture will cost, judged from a few batches: rows, bytes, time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from lazycache.capture.corpus.work import Work
from lazycache.codec.tables import encode_table
from lazycache.faces import html
from lazycache.progress import bytes_text, duration_text
from lazycache.types import EXAMPLES, INDEX_COLUMNS, RowBatch, SiteBlock, TableBlock

_SHOWN = 60
"""Sites that are listed one by one."""

_INDEX_BYTES = {"example": 8, "position": 4, "call": 4}


@dataclass(frozen=True, slots=True)
class SiteEstimate:
    """What one site will take."""

    name: str
    """Its name."""
    table: str
    """The table whose rows it has."""
    dtype: str
    """What is stored, by its torch name."""
    shape: tuple[int, ...]
    """Shape of a row; -1 where rows differ in width."""
    rows: int
    """Rows in all."""
    nbytes: int
    """Bytes in all."""


@dataclass(frozen=True, slots=True, repr=False)
class Estimate:
    """What `lc.extract(..., dry_run=True)` found: rows, bytes and time of the run, before it.

    Printed it is a table. Nothing was written.
    """

    url: str
    """Where the dataset would be."""
    examples: int
    """Examples that would be captured."""
    tokens: int
    """Tokens that the model would read."""
    tables: Mapping[str, int]
    """Table to the rows that it would get."""
    sites: tuple[SiteEstimate, ...]
    """What each site would take."""
    table_bytes: int
    """Bytes of the files of the tables."""
    index_bytes: int
    """Bytes of the numbers of rows that stand beside the values of each site."""
    seconds: float
    """How long the model would take, hooks and copies included: the least that the run takes."""
    free_bytes: int | None
    """What is left on the disk; None of a bucket."""
    batches: int
    """Batches that were measured."""
    is_whole: bool
    """Whether the whole corpus was looked at: else the figures are scaled from a sample of it."""
    is_open: bool
    """Whether the corpus does not say how many examples it has: all figures are those of its
    first ones."""

    @property
    def nbytes(self) -> int:
        """Bytes of the dataset, or of what is added to it."""
        values = sum(site.nbytes for site in self.sites)
        return self.table_bytes + self.index_bytes + values

    @property
    def fits(self) -> bool:
        """Whether the disk has room for it, as far as is known."""
        return self.free_bytes is None or self.nbytes <= self.free_bytes

    def __repr__(self) -> str:
        """Return the estimate as a table."""
        return "\n".join([self._head(), *_columns(self._lines()), *self._foot()])

    def _repr_html_(self) -> str:
        """Show the same in a notebook. All text is escaped."""
        names, *rows = self._lines()
        left = ("site", "table", "dtype")
        foot = html.block("\n".join(self._foot()))
        return html.card(self._head(), html.table(names, rows, left=left), foot, kind="Estimate")

    def _head(self) -> str:
        which = "the first " if self.is_open else ""
        return f"{self.url}: {which}{self.examples:,} examples, {self.tokens:,} tokens"

    def _lines(self) -> Iterator[Sequence[str]]:
        yield ("site", "table", "dtype", "row", "rows", "bytes")
        for site in self.sites[:_SHOWN]:
            shape = str(list(site.shape)).replace("-1", "keys")
            count = f"{site.rows:,}"
            yield (site.name, site.table, site.dtype, shape, count, bytes_text(site.nbytes))
        if len(self.sites) > _SHOWN:
            rest = self.sites[_SHOWN:]
            rest_bytes = bytes_text(sum(site.nbytes for site in rest))
            yield (f"{len(rest)} more", "", "", "", "", rest_bytes)
        for table, rows in self.tables.items():
            yield (f"table {table}", "", "", "", f"{rows:,}", "")
        yield ("tables", "", "", "", "", bytes_text(self.table_bytes))
        yield ("row numbers", "", "", "", "", bytes_text(self.index_bytes))
        yield ("in all", "", "", "", "", bytes_text(self.nbytes))

    def _foot(self) -> Iterator[str]:
        rate = self.tokens / max(self.seconds, 1e-9)
        speed = bytes_text(self.nbytes / max(self.seconds, 1e-9))
        yield (
            f"at least {duration_text(self.seconds)}: the model does {rate:,.0f} tokens/s, which "
            f"gives the store {speed}/s"
        )
        room = "its free space is not known" if self.free_bytes is None else bytes_text(self.free)
        yield f"disk: {room}{'' if self.free_bytes is None else ' free'}"
        scaled = "the whole corpus" if self.is_whole else "a sample of the corpus"
        batches = f"{self.batches} batch{'es' * (self.batches != 1)}"
        yield f"judged from {batches} of {scaled}; nothing was written"
        if self.is_open:
            yield "the corpus does not say how many examples it has"
        if not self.fits:
            yield f"WARNING: {bytes_text(self.nbytes - self.free)} more than fit on the disk"

    @property
    def free(self) -> int:
        """Bytes left on the disk; 0 where nobody knows."""
        return self.free_bytes or 0


def index_bytes(sites: Iterable[SiteEstimate]) -> int:
    """Return the bytes of example, position, ... that stand beside the values of sites.

    Example:
        >>> index_bytes([SiteEstimate("embed", "tokens", "float32", (4,), 10, 160)])
        120
    """
    return sum(
        site.rows * sum(_INDEX_BYTES[name] for name in INDEX_COLUMNS[site.table]) for site in sites
    )


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


def _columns(lines: Iterator[Sequence[str]]) -> list[str]:
    """Lay lines out in columns: text to the left, the last two to the right."""
    known = list(lines)
    widths = [max(len(line[i]) for line in known) for i in range(len(known[0]))]
    left = len(widths) - 2
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in known
    ]
