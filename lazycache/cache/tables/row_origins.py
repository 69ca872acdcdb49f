"""Where the rows of a lazy tensor come from: rows of tables, which can be asked about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lazycache.cache.selecting.examples import ExampleMap
from lazycache.cache.selecting.plan import Rows
from lazycache.cache.tables.conditions import Params, Tables
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.reading.source import Source
    from lazycache.cache.tables.restriction import Restriction


class Asked(Tables, Protocol):
    """Tables of a dataset, and what conditions keep of them: a `StoredSites`."""

    @property
    def whole(self) -> Asked:
        """The same with all rows."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it is refused to read."""
        ...

    def examples_of(self, table: str) -> ExampleMap:
        """Return which rows of a table each example has."""
        ...

    def restriction_by(
        self, condition: str, params: Params = None, *, table: str | None = None
    ) -> Restriction:
        """Return the rows that a condition keeps, of a table if it has the columns."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Some rows of a lazy tensor as rows of one table."""

    tables: Asked
    """The dataset."""
    table: str
    """The table."""
    rows: np.ndarray
    """int64[n]: absolute rows of it."""
    members: np.ndarray | slice
    """Which of the rows that were asked for these are."""


Origins = Callable[[np.ndarray], Sequence[Origin]]
"""Tells of rows of a source where they come from."""


def through(origins: Origins | None, rows: Rows) -> Origins | None:
    """Return the origins of rows that are numbered anew: row i is that of `rows[i]` before."""
    return None if origins is None else partial(_told, origins, rows)


def _told(origins: Origins, rows: Rows, numbers: np.ndarray) -> Sequence[Origin]:
    # no closure: it is pickled with the tensor
    return origins(picked(rows, numbers))


def picked(rows: Rows, places: np.ndarray) -> np.ndarray:
    """Return the rows at some places."""
    if isinstance(rows, range):
        return rows.start + rows.step * places
    chosen: np.ndarray = rows[places]
    return chosen


def asked(source: Source, rows: np.ndarray, *, shown: Callable[[], str]) -> list[Origin]:
    """Return where rows of a source come from.

    Raises:
        SelectionError: some are of no dataset.
    """
    if source.origins is None:
        raise SelectionError(
            f"{shown()} has no tables: it is of no dataset. Ask the tensors of datasets that it "
            "was made of, cache[site].where(...), and compute with what they give."
        )
    return list(source.origins(rows))


def keeping(
    origins: Callable[[np.ndarray], Sequence[Origin]], condition: str, params: Params
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that says of rows which of them satisfy a condition.

    Cost: each dataset is asked once.
    """
    known: dict[int, tuple[Asked, Restriction]] = {}

    def keep(rows: np.ndarray) -> np.ndarray:
        mask = np.zeros(len(rows), dtype=np.bool_)
        for one in origins(rows):
            if id(one.tables) not in known:
                found = one.tables.restriction_by(condition, params, table=one.table)
                known[id(one.tables)] = (one.tables, found)
            kept = known[id(one.tables)][1].rows(one.table)
            mask[one.members] = kept.holds(one.rows)
        return mask

    keep(np.empty(0, dtype=np.int64))  # what cannot be asked is said now, whatever is selected
    return keep
