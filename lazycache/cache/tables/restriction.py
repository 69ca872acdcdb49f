"""Which rows of each table a condition keeps, and of which examples."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.selecting import spans
from lazycache.cache.selecting.examples import ExampleMap, build
from lazycache.cache.selecting.spans import Spans
from lazycache.cache.tables import conditions
from lazycache.cache.tables.conditions import Params, Tables
from lazycache.errors import QueryError
from lazycache.types import EXAMPLES, INDEX_COLUMNS, TOKENS

if TYPE_CHECKING:
    from lazycache.catalog.extents import Extents


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Some examples, in order of run and id."""

    run: np.ndarray
    """int64[n]: number of the run."""
    example: np.ndarray
    """int64[n]: id of the example in its run."""

    def holds(self, run: np.ndarray, example: np.ndarray) -> np.ndarray:
        """Say of each pair of run and id whether it is one of them: bool[n]."""
        runs, ids = np.concatenate([run, self.run]), np.concatenate([example, self.example])
        order, new = _ordered(runs, ids)
        number = np.empty(len(order), dtype=np.int64)
        number[order] = np.cumsum(new) - 1
        mine = np.zeros(len(order), dtype=np.bool_)
        mine[number[len(run) :]] = True
        there: np.ndarray = mine[number[: len(run)]]
        return there


def distinct(run: np.ndarray, example: np.ndarray) -> Examples:
    """Return the examples of pairs of run and id."""
    order, new = _ordered(run, example)
    return Examples(run[order][new], example[order][new])


def _ordered(run: np.ndarray, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of pairs, and which in that order differ from the one before."""
    order = np.lexsort((example, run))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (np.diff(run[order]) != 0) | (np.diff(example[order]) != 0)
    return order, new


class Restriction:
    """The rows that a condition keeps: of each table, as ranges of absolute rows.

    A condition on columns of `examples` alone chooses examples, with all their rows. Any other is
    one on rows, of the first table that has its columns, `tokens` nearly always, or of `table` if
    that has them: it keeps the examples that have such a row. Of other tables it keeps the rows of
    these examples; those that satisfy it, where the table has its columns too.

    That table is asked when it is made; others when their rows are first wanted.
    """

    def __init__(
        self,
        tables: Tables,
        condition: str,
        params: Params,
        before: Restriction | None,
        *,
        table: str | None = None,
    ) -> None:
        self._tables = tables
        self._condition = conditions.checked(condition, tables, what="The condition")
        self._params = params
        self._before = before
        self._spans: dict[str, Spans] = {}
        self._lock = threading.RLock()
        self._by_example, first, found = self._first(table)
        self._spans[first] = found
        self.examples = self._touched(first, found)
        """The examples that are left."""

    def rows(self, table: str) -> Spans:
        """Return the rows that are kept of a table. Asks the table once, if it has to be."""
        with self._lock:
            if table not in self._spans:
                self._spans[table] = self._of(table)
            return self._spans[table]

    def kept(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return first rows and stops of what is kept of each table that has rows or is asked."""
        tables = {TOKENS, EXAMPLES, *self._tables.snapshot.tables}
        found = {table: self.rows(table) for table in tables if table in INDEX_COLUMNS}
        return {table: (rows.starts, rows.stops) for table, rows in found.items()}

    def map(self, table: str, covered: tuple[np.ndarray, np.ndarray] | None) -> ExampleMap:
        """Return the map of the kept rows of a table, or of those that are covered too.

        All kept examples are in it, also those that have no row here: example i is the same for
        all sites.
        """
        rows = self.rows(table)
        if covered is not None:
            rows &= spans.of_ranges(*covered)
        return kept_map(self._tables.snapshot.extents(table), rows, self.examples)

    def _first(self, wanted: str | None) -> tuple[bool, str, Spans]:
        """Ask the table that the condition is about: the wanted one, if it has its columns."""
        asked = self._asked(conditions.alone(self._tables), conditions.ROW)
        with asked as batches:
            if not isinstance(batches, QueryError):
                return True, EXAMPLES, conditions.spans_of(batches)
        error: QueryError | None = None
        filled = self._tables.snapshot.rows
        for table in sorted(_TABLES, key=lambda name: (name != wanted, not filled(name))):
            with self._of_table(table) as batches:
                if not isinstance(batches, QueryError):
                    return False, table, conditions.spans_of(batches)
                error = error or batches
        raise error or QueryError("There is no table.")

    def _of(self, table: str) -> Spans:
        extents = self._tables.snapshot.extents(table)
        mine = self.examples.holds(extents.run, extents.example)
        start = extents.start[mine]
        rows = spans.of_ranges(start, start + extents.rows[mine])
        if self._before is not None:
            rows &= self._before.rows(table)
        if self._by_example or not rows.count:
            return rows
        with self._of_table(table) as batches:
            if isinstance(batches, QueryError):  # it lacks a column: its examples are kept whole
                return rows
            return rows & conditions.spans_of(batches)

    @contextmanager
    def _of_table(self, table: str) -> Iterator[Iterator[np.ndarray] | QueryError]:
        if not self._tables.snapshot.rows(table) and table != TOKENS:
            yield QueryError(f"There are no rows of {table}.")
            return
        for source in conditions.sources(self._tables, table):
            with self._asked(source, f"{table}.row") as batches:
                if not isinstance(batches, QueryError):
                    yield batches
                    return
        yield batches

    @contextmanager
    def _asked(self, source: str, row: str) -> Iterator[Iterator[np.ndarray] | QueryError]:
        """Give batches of rows, or why the question cannot be asked of this FROM clause."""
        asked = conditions.kept(self._tables, source, row, self._condition, self._params)
        with closing(asked):
            try:
                next(asked)
            except QueryError as exc:
                yield exc
                return
            yield asked

    def _touched(self, table: str, rows: Spans) -> Examples:
        extents = self._tables.snapshot.extents(table)
        touched = rows.touches(extents.start, extents.start + extents.rows)
        return distinct(extents.run[touched], extents.example[touched])


_TABLES = (TOKENS, *(table for table in INDEX_COLUMNS if table not in {TOKENS, EXAMPLES}), EXAMPLES)


def kept_map(extents: Extents, rows: Spans, examples: Examples) -> ExampleMap:
    """Return the map of some rows of a table, and of these examples, to which the rows belong."""
    pieces = rows & Spans(extents.start, extents.start + extents.rows)
    owner = np.searchsorted(extents.start, pieces.starts, side="right") - 1
    run, example = extents.run[owner], extents.example[owner]
    kept = _Runs(run, example, pieces.starts, pieces.stops - pieces.starts)
    none = np.zeros_like(examples.run)
    return build(kept, covered=None, listed=_Runs(examples.run, examples.example, none, none))


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Runs of consecutive rows of one example, in row order, as `build` takes them."""

    run: np.ndarray
    example: np.ndarray
    start: np.ndarray
    rows: np.ndarray
