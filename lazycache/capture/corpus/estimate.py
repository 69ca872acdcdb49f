"""What a dry run says: the rows, bytes and time that a capture will take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lazycache.faces import html
from lazycache.progress import bytes_text, duration_text
from lazycache.types import INDEX_COLUMNS

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
