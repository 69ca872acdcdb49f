"""What the page of an example shows: its columns, and its text with one unit on each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.exceptions import HTTPException

from lazycache.cache.selecting.plan import as_array
from lazycache.query.contexts import POSITION, TOKEN, columns_there
from lazycache.query.passages import MOST_TOKENS, Passage, passages_around
from lazycache.query.token_pages import pages_of
from lazycache.serve import asked
from lazycache.serve.examples_there import (
    Name,
    Placed,
    columns_of,
    names_of,
    number_of,
    rows_at,
    told_of,
)
from lazycache.serve.units import Unit
from lazycache.types import DECODER_TOKENS, EXAMPLES, TOKENS

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites

PAGE = 50
"""Examples of one page of their list."""

PREVIEW = 100
"""Letters of a column in the list."""

BRIEF = 120
"""Letters of a value that is a fact; longer ones are opened by the reader."""


@dataclass(frozen=True, slots=True)
class ExampleAsked:
    """What the address of an example says."""

    example: int | None
    """Its id; None: the list is asked for."""
    run: str | None
    """Its run; None where there is no doubt."""
    layer: str | None
    """A site of attention patterns."""
    head: int | None
    """One head of it."""
    query: int | None
    """The token whose attention is shown on the text."""
    start: int
    """Where the list begins."""


@dataclass(frozen=True, slots=True)
class Coloured:
    """One unit on an example."""

    passage: Passage | None
    """Its tokens; None of sites with one row for each example."""
    value: float | None
    """Of such a site: the unit in this example; None where it has no row."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of the list of examples."""

    columns: list[str]
    """Names of the columns."""
    lines: list[tuple[Name, list[str]]]
    """Examples with their cells, shortened."""
    start: int
    """Place of the first one."""
    count: int
    """Of how many."""


def asked_of(query: Mapping[str, str]) -> ExampleAsked:
    """Return what an address says of an example.

    Raises:
        QueryError: a number is none.

    Example:
        >>> asked_of({"example": "3", "layer": "pattern_0"}).example
        3
    """
    return ExampleAsked(
        example=asked.number_of(query, "example"),
        run=asked.text_of(query, "run"),
        layer=asked.text_of(query, "layer"),
        head=asked.number_of(query, "head"),
        query=asked.number_of(query, "query"),
        start=asked.number_of(query, "start") or 0,
    )


def listed(sites: StoredSites, start: int) -> Listed:
    """Return a page of the list of examples.

    Cost: one query of the index.

    Raises:
        HTTPException: 404, there are not so many.
    """
    known = sites.examples_of(EXAMPLES)
    if start and start >= len(known):
        raise HTTPException(404, detail=f"There are {len(known):,} examples.")
    numbers = list(islice(range(start, len(known)), PAGE))
    columns = columns_of(sites)
    cells = told_of(sites, rows_at(known, numbers), columns) if numbers else []
    lines = [
        (name, [preview(cell) for cell in line])
        for name, line in zip(names_of(sites, known, numbers), cells, strict=True)
    ]
    return Listed(columns, lines, start, len(known))


def told(sites: StoredSites, placed: Placed) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the columns of an example with their values: the brief ones, and the long ones.

    Cost: one query of the index.
    """
    columns = columns_of(sites)
    (cells,) = told_of(sites, [placed.row], columns) if columns else [[]]
    pairs = [
        (name, str(cell)) for name, cell in zip(columns, cells, strict=True) if cell is not None
    ]
    brief = [pair for pair in pairs if len(pair[1]) <= BRIEF and "\n" not in pair[1].strip()]
    return brief, [pair for pair in pairs if pair not in brief]


def preview(cell: Any) -> str:
    r"""Return the beginning of a value, in one line.

    Example:
        >>> preview("a\n b"), preview(None)
        ('a b', '')
    """
    text = "" if cell is None else " ".join(str(cell)[: 4 * PREVIEW].split())
    return text if len(text) <= PREVIEW else f"{text[: PREVIEW - 1]}…"


def plain(sites: StoredSites, name: Name, table: str = TOKENS) -> Passage | None:
    """Return the tokens of an example without values; None where the table has none of it.

    Cost: one query of the index, or none.
    """
    whole = sites.whole
    if not whole.snapshot.rows(table):
        return None
    known = whole.examples_of(table)
    number = number_of(whole, known, name)
    if number is None or not known.lengths[number]:
        return None
    begin, length = int(known.offsets[number]), int(known.lengths[number])
    count = min(length, MOST_TOKENS)
    rows = as_array(known.absolute(range(begin, begin + count)))
    shown = columns_there(whole, table)
    cells = pages_of(whole, table, shown).columns(whole, rows) if shown else {}
    nothing: list[Any] = [None] * count
    positions, tokens = cells.get(POSITION, nothing), cells.get(TOKEN, nothing)
    left = (0, length - count)
    return Passage(name.example, rows, positions, tokens, nothing, None, left)


def coloured(unit: Unit, name: Name) -> Coloured:
    """Return a unit on an example.

    Cost: reads the unit in the rows of the example.

    Raises:
        HTTPException: 404, the site has no row of it.
    """
    known = unit.x.source.examples()
    number = number_of(unit.cache.stored, known, name)
    if number is None or not known.lengths[number]:
        raise HTTPException(
            404, detail=f"{unit.site} has no rows of example {name.example}: none was captured."
        )
    rows = np.array(rows_at(known, [number]))
    if unit.of_tokens:
        (passage,) = passages_around(unit.one, rows, None)
        return Coloured(passage, None)
    return Coloured(None, float(unit.one.values_of(rows)))


def other_table(sites: StoredSites, table: str) -> str | None:
    """Return the other table of tokens, of models with an encoder and a decoder."""
    other = DECODER_TOKENS if table == TOKENS else TOKENS
    return other if sites.snapshot.rows(other) else None
