"""A sink for sites that are added later: values for rows that are stored, checked against them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lazycache.catalog.stored_examples import StoredExamples, Tokens
from lazycache.errors import CaptureError
from lazycache.types import EXAMPLES, INDEX_COLUMNS, TOKENS, RowBatch, SiteBlock, TableBlock
from lazycache.writer.parts import Place

Cover = Callable[[RowBatch, Mapping[str, Place]], None]
"""Takes consecutive rows over: `DatasetWriter.cover`."""

_TABLES = (TOKENS, EXAMPLES)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Examples of a batch whose rows follow each other, in the dataset as in the batch."""

    first: int
    stop: int
    sites: tuple[str, ...]


class CoverSink:
    """Takes batches of examples that are stored, and hands their values on where they belong.

    Args:
        stored: The examples of the run.
        cover: Takes the values over.
        commit: Makes what was taken over visible.
        lacking: Site to bool[examples]: which examples lack it. Others are left out, and of a site
            that is not here none.
    """

    def __init__(
        self,
        stored: StoredExamples,
        *,
        cover: Cover,
        commit: Callable[[], int],
        lacking: Mapping[str, np.ndarray],
    ) -> None:
        self._stored = stored
        self._cover = cover
        self._commit = commit
        self._lacking = lacking
        self.expected: dict[int, Tokens] = {}
        """The stored tokens of the examples that are under way; written ones are taken out."""

    def write(self, batch: RowBatch) -> None:
        """Check the rows of a batch against the stored ones, and hand its values on.

        Raises:
            CaptureError: other examples, positions or token ids than those that are stored; a site
                whose table has no rows here.
        """
        ids = np.asarray(batch.tables[EXAMPLES].columns["example"])
        at = self._stored.at(ids)
        assert (at >= 0).all(), "only stored examples are run"
        self._check_tables(batch)
        self._check_tokens(batch, ids)
        for piece in self._pieces(batch, at):
            self._hand_on(batch, at, piece)
        for example in ids.tolist():
            self.expected.pop(example, None)

    def commit(self) -> int:
        """Make everything taken over so far visible."""
        return self._commit()

    def _check_tables(self, batch: RowBatch) -> None:
        for name, block in batch.sites.items():
            if block.table not in _TABLES:
                raise CaptureError(
                    f"{name} has rows of {block.table!r}, which this run does not have: only sites "
                    f"of {' and '.join(_TABLES)} can be added later. Capture it in another run."
                )

    def _check_tokens(self, batch: RowBatch, ids: np.ndarray) -> None:
        """Compare example, position and token id of every row."""
        known = [self.expected[example] for example in ids.tolist()]
        wanted = {
            "example": np.repeat(ids, [len(tokens.positions) for tokens in known]),
            "position": np.concatenate([tokens.positions for tokens in known]),
            "token_id": np.concatenate([tokens.token_ids for tokens in known]),
        }
        block = batch.tables.get(TOKENS)
        for name, values in wanted.items():
            given = np.empty(0, np.int64) if block is None else np.asarray(block.columns[name])
            if np.array_equal(given, values):
                continue
            row = _first_difference(given, values)
            where = min(row, len(values) - 1)
            raise CaptureError(
                f"The model was run on other rows than those that are stored: example "
                f"{wanted['example'][where]}, position {wanted['position'][where]} differs in its "
                f"{name} ({_at(given, row)} instead of {_at(values, row)}). Nothing was added for "
                "this batch."
            )

    def _pieces(self, batch: RowBatch, at: np.ndarray) -> Iterator[_Piece]:
        """Cut a batch where the stored rows do not follow each other."""
        first = 0
        for n in range(1, len(at) + 1):
            if n < len(at) and self._follows(at[n - 1], at[n]):
                continue
            sites = tuple(name for name in batch.sites if self._lacks(name, at[first]))
            if sites:
                yield _Piece(first, n, sites)
            first = n

    def _follows(self, one: int, other: int) -> bool:
        """Whether the rows of an example follow those of another in both tables, and lack alike."""
        examples, tokens = self._stored.examples, self._stored.tokens
        return bool(
            examples.commit[one] == examples.commit[other]
            and examples.row[one] + 1 == examples.row[other]
            and tokens.count[one]
            and tokens.count[other]
            and tokens.row[one] + tokens.count[one] == tokens.row[other]
            and all(lacks[one] == lacks[other] for lacks in self._lacking.values())
        )

    def _lacks(self, site: str, example: int) -> bool:
        return site in self._lacking and bool(self._lacking[site][example])

    def _hand_on(self, batch: RowBatch, at: np.ndarray, piece: _Piece) -> None:
        counts = self._stored.tokens.count[at]
        ends = np.cumsum(counts)
        rows = {
            EXAMPLES: slice(piece.first, piece.stop),
            TOKENS: slice(int(ends[piece.first] - counts[piece.first]), int(ends[piece.stop - 1])),
        }
        tables = {
            name: _some_rows(name, block, rows[name])
            for name, block in batch.tables.items()
            if name in rows
        }
        sites = {
            name: _some_values(batch.sites[name], rows[batch.sites[name].table])
            for name in piece.sites
        }
        start = at[piece.first]
        places = {
            EXAMPLES: self._stored.examples,
            TOKENS: self._stored.tokens,
        }
        self._cover(
            RowBatch(tables, sites),
            {
                name: Place(int(found.commit[start]), int(found.start[start]))
                for name, found in places.items()
                if name in tables
            },
        )


def _some_rows(table: str, block: TableBlock, rows: slice) -> TableBlock:
    """Some rows of a table, as far as values need them: their index."""
    columns = {name: np.asarray(block.columns[name])[rows] for name in INDEX_COLUMNS[table]}
    return TableBlock(rows.stop - rows.start, columns)


def _some_values(block: SiteBlock, rows: slice) -> SiteBlock:
    if block.widths is None:
        return SiteBlock(block.table, block.values[rows])
    total = int(block.widths.sum())
    each = len(block.values) // total if total else 0
    ends = np.concatenate([[0], np.cumsum(block.widths, dtype=np.int64)]) * each
    values = block.values[int(ends[rows.start]) : int(ends[rows.stop])]
    return SiteBlock(block.table, values, block.shape, block.widths[rows])


def _first_difference(given: np.ndarray, wanted: np.ndarray) -> int:
    shared = min(len(given), len(wanted))
    differs = np.flatnonzero(given[:shared] != wanted[:shared])
    return int(differs[0]) if len(differs) else shared


def _at(values: Sequence[int] | np.ndarray, row: int) -> object:
    return values[row] if row < len(values) else "nothing"
