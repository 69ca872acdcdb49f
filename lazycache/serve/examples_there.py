"""Which examples a dataset has, and which one an address means."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.exceptions import HTTPException

from lazycache.cache.selecting.plan import as_array
from lazycache.cache.tables.conditions import quoted
from lazycache.types import EXAMPLES

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites
    from lazycache.cache.selecting.examples import ExampleMap

OURS = ("example", "length", "tokens_crc32")
"""Columns of the table of examples that no user has given."""


@dataclass(frozen=True, slots=True)
class Name:
    """What an example is called: ids are unique within a run."""

    example: int
    """Its id."""
    run: str
    """Its run."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One example, and those beside it in the order of run and id."""

    name: Name
    """What it is called."""
    row: int
    """Its row in the table of examples."""
    before: Name | None
    """The one before it; None of the first."""
    after: Name | None
    """The one after it; None of the last."""


def names_of(sites: StoredSites, known: ExampleMap, numbers: Sequence[int]) -> list[Name]:
    """Return what examples are called, by their numbers in a map."""
    runs = list(sites.snapshot.runs)
    return [Name(int(known.example[n]), runs[int(known.run[n])]) for n in numbers]


def number_of(sites: StoredSites, known: ExampleMap, name: Name) -> int | None:
    """Return the number of an example in a map; None where it is not there."""
    run = list(sites.snapshot.runs).index(name.run)
    found = np.flatnonzero((known.example == name.example) & (known.run == run))
    return int(found[0]) if len(found) else None


def named(sites: StoredSites, example: int, run: str | None) -> list[Placed]:
    """Return the examples that have an id, of all runs or of one.

    Raises:
        HTTPException: 404, there is none; says which there are.
    """
    known = sites.examples_of(EXAMPLES)
    numbers = np.flatnonzero(known.example == example).tolist()
    of_run = [
        n
        for n, name in zip(numbers, names_of(sites, known, numbers), strict=True)
        if run is None or name.run == run
    ]
    if not of_run:
        raise HTTPException(404, detail=_none(sites, known, example, run))
    return [_placed(sites, known, n) for n in of_run]


def columns_of(sites: StoredSites) -> list[str]:
    """Return the names of the columns that users gave to examples."""
    return [name for name in sites.snapshot.columns(EXAMPLES) if name not in OURS]


def told_of(sites: StoredSites, rows: Sequence[int], columns: Sequence[str]) -> list[list[Any]]:
    """Return what columns of the table of examples say of some rows, in their order.

    Cost: one query of the index.
    """
    listed = ", ".join(["row", *map(quoted, columns)])
    query = f"SELECT {listed} FROM {EXAMPLES} WHERE row IN (SELECT unnest(?::BIGINT[]))"  # noqa: S608  # quoted
    with closing(sites.sql(query, [list(rows)])) as result:
        found = {row: list(cells) for row, *cells in result.fetchall()}
    return [found[row] for row in rows]


def rows_at(known: ExampleMap, numbers: Sequence[int]) -> list[int]:
    """Return the first row of each of some examples of a map that have one."""
    begins = known.offsets[np.asarray(numbers, dtype=np.int64)]
    rows: list[int] = as_array(known.absolute(begins)).tolist()
    return rows


def _placed(sites: StoredSites, known: ExampleMap, number: int) -> Placed:
    near = [n for n in (number - 1, number, number + 1) if 0 <= n < len(known)]
    names = dict(zip(near, names_of(sites, known, near), strict=True))
    (row,) = rows_at(known, [number])
    return Placed(names[number], row, names.get(number - 1), names.get(number + 1))


def _none(sites: StoredSites, known: ExampleMap, example: int, run: str | None) -> str:
    of = "" if run is None else f" of run {run}"
    ids = known.example
    there = f"Ids are from {ids.min()} to {ids.max()}" if len(ids) else "There are none"
    runs = f"; runs are {', '.join(list(sites.snapshot.runs)[:5])}" if run is not None else ""
    return f"There is no example {example}{of}. {there}{runs}."
