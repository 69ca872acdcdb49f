"""Columns of the tables beside the rows that are fed: aligned by position, read in long stretches.

The index answers for a stretch of rows nearly as fast as for one row, and for scattered rows hardly
faster than for all between them. So each stretch of the selection is asked for once, when a row of
it is first needed, and kept as numbers of a few bytes: of whatever order, batches are then cut from
arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lazycache.cache.selecting.plan import as_array
from lazycache.cache.tables import row_columns
from lazycache.cache.tables.row_origins import Origin, asked
from lazycache.errors import QueryError
from lazycache.feed.column_files import PiecewiseArray
from lazycache.feed.column_kinds import Handed, Kind, handed, kind_of, numbers_of
from lazycache.feed.row_numbers import RowNumbers
from lazycache.feed.words import Words

if TYPE_CHECKING:
    import pyarrow as pa

    from lazycache.cache.tensor.lazy_tensor import LazyTensor

PIECE_ROWS = 1 << 20
"""Consecutive rows of the selection for which the index is asked at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Entries of one column as they are kept."""

    kind: Kind
    """What they become."""
    values: np.ndarray
    """[n]: numbers, or numbers of texts."""
    words: np.ndarray | None
    """The texts by number: object[texts]; None: numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """One column of the whole selection, as far as it was asked for."""

    values: PiecewiseArray
    """Numbers, or numbers of texts."""
    words: Words | None
    """The texts; None: numbers."""


class Columns:
    """Columns of some rows, coded: batches are taken from them."""

    def __init__(self, parts: Sequence[Part], count: int) -> None:
        self._parts = tuple(parts)
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the entries, without the texts, which rows share."""
        return sum(part.values.nbytes for part in self._parts)

    def take(self, index: np.ndarray | slice) -> dict[str, Handed]:
        """Return the entries at places, by column: tensors of their own, or lists of texts."""
        return {
            part.kind.name: handed(part.kind, _taken(part.values, index), part.words)
            for part in self._parts
        }


class ColumnReader:
    """Reads columns of the tables for rows of a lazy tensor, by position in `tensor.rows`.

    A column is the name of one, of the table or of `examples`, or an expression of SQL over them,
    which is its name then. Whole numbers are int64, floats and bools keep their dtype, texts are
    lists of str, with None where there is none.

    Cost: the index is asked once for each stretch of 2^20 rows in which a row is read, of all
    columns at once (no shard, unless an expression names a site). Kept are the bytes that a number
    has in the table, 4 for a text, for each row of the selection: in memory up to 128 MiB a column,
    else in a temporary file. Distinct texts are kept up to 64 MiB; where a column has more, it is
    asked for anew with every read.

    Raises:
        QueryError: there is no such column, names the nearest; or it is neither of numbers nor of
            texts. While it reads: a whole number is NULL.
        SelectionError: the tensor is of no dataset.

    Example:
        >>> from lazycache.samples import small_cache
        >>> reader = ColumnReader(small_cache()["resid_out_0"], ["position", "run"])
        >>> reader.read(np.array([4, 0])).take(slice(None))
        {'position': tensor([2, 0]), 'run': ['main', 'main']}
    """

    def __init__(
        self,
        tensor: LazyTensor,
        names: Sequence[str],
        *,
        numbers: RowNumbers | None = None,
        piece_rows: int = PIECE_ROWS,
    ) -> None:
        self._tensor = tensor
        self._names = _distinct(names)
        self._piece_rows = piece_rows
        self._numbers = RowNumbers.of(tensor.rows.lead.flat()) if numbers is None else numbers
        # what cannot be asked is said now, whatever is read
        schema = self._table(self._probe(), self._names).schema
        self._kinds = {name: kind_of(name, schema.field(name).type) for name in self._names}
        self._kept = {name: self._empty(kind) for name, kind in self._kinds.items()}
        self._known = np.zeros(-(-self._numbers.count // piece_rows), dtype=np.bool_)
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns as batches have them."""
        return tuple(self._names)

    @property
    def text(self) -> frozenset[str]:
        """Those that are lists of texts."""
        return frozenset(name for name, kind in self._kinds.items() if kind.handed is None)

    @property
    def dtypes(self) -> dict[str, str]:
        """What batches have of each column: the name of a dtype, or `text`."""
        return {
            name: "text" if kind.handed is None else kind.handed.name
            for name, kind in self._kinds.items()
        }

    def read(self, places: np.ndarray) -> Columns:
        """Return the columns of the rows at places of the selection, int64[n] in any order.

        May be called from several threads.
        """
        with self._lock:
            self._prepare(places)
            return Columns([self._part(name, places) for name in self._kinds], len(places))

    def __reduce__(self) -> tuple[Any, ...]:
        # as an address: what is kept is asked for again where it is unpickled
        return ColumnReader, (self._tensor, self.names)

    def _empty(self, kind: Kind) -> Kept:
        values = PiecewiseArray(self._numbers.count, kind.stored)
        return Kept(values, Words() if kind.handed is None else None)

    def _probe(self) -> np.ndarray:
        """Return rows for which the columns are tried: none, but of datasets that are joined."""
        none = np.empty(0, dtype=np.int64)
        if self._origins(none) or not self._numbers.count:
            return none
        return as_array(self._numbers.at(np.unique([0, self._numbers.count - 1])))

    def _part(self, name: str, places: np.ndarray) -> Part:
        kept, kind = self._kept.get(name), self._kinds[name]
        if kept is not None:
            words = None if kept.words is None else kept.words.all()
            return Part(kind, kept.values.take(places), words)
        found = Words()
        rows = as_array(self._numbers.at(places))
        return Part(kind, found.numbers_of(self._table(rows, [name]).column(0)), found.all())

    def _prepare(self, places: np.ndarray) -> None:
        """Have every piece asked for in which a place is."""
        if self._known.all():
            return
        wanted = np.zeros_like(self._known)
        wanted[places // self._piece_rows] = True
        for piece in np.flatnonzero(wanted & ~self._known):
            self._fetch(int(piece))

    def _fetch(self, piece: int) -> None:
        first = piece * self._piece_rows
        stop = min(first + self._piece_rows, self._numbers.count)
        rows = as_array(self._numbers.at(np.arange(first, stop)))
        if names := list(self._kept):
            table = self._table(rows, names)
            for name in names:
                self._keep(name, first, table.column(name))
        self._known[piece] = True

    def _keep(self, name: str, first: int, column: pa.ChunkedArray) -> None:
        kept = self._kept[name]
        if kept.words is None:
            kept.values.write(first, numbers_of(self._kinds[name], column))
            return
        kept.values.write(first, kept.words.numbers_of(column))
        if kept.words.are_many:
            # they grow with the dataset: from now on it is asked for what is read
            del self._kept[name]

    def _table(self, rows: np.ndarray, names: list[str]) -> pa.Table:
        origins = self._origins(rows)
        return row_columns.table_of(origins, names, count=len(rows), encode=_coded)

    def _origins(self, rows: np.ndarray) -> list[Origin]:
        return asked(self._tensor.source, rows, shown=lambda: repr(self._tensor))


def _taken(values: np.ndarray, index: np.ndarray | slice) -> np.ndarray:
    """Return entries in memory of their own."""
    if isinstance(index, slice):
        return values[index].copy()
    # half the time of an index in brackets
    return values.take(index)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names once each, in order."""
    given = [names] if isinstance(names, str) else list(names)
    if odd := [name for name in given if not isinstance(name, str)]:
        raise QueryError(f"columns are named by texts, not {odd[0]!r}: columns=['token'].")
    return list(dict.fromkeys(given))


def _coded(values: pa.Array) -> pa.Array:
    """Return texts as numbers of their distinct values, as they come in; others as they are."""
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    return values.dictionary_encode() if is_text else values
