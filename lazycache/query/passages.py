"""Tokens of examples with what one unit is on each of them: texts that can be coloured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.selection import Grid
from lazycache.errors import QueryError
from lazycache.query.asked import tensor_of, unit_of
from lazycache.query.contexts import POSITION, TOKEN, columns_there
from lazycache.query.token_pages import pages_of
from lazycache.types import EXAMPLES

if TYPE_CHECKING:
    from lazycache.cache.selecting.examples import ExampleMap
    from lazycache.cache.tables.row_origins import Origin
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.query.asked import Cache, Site

MOST_TOKENS = 4096
"""Tokens of one example that are read, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """Tokens of one example that follow each other, and what one unit is on each."""

    example: int
    """Id of the example."""
    rows: np.ndarray
    """int64[n]: rows of the table of its dataset."""
    positions: list[int | None]
    """Their positions; None in tables without positions."""
    tokens: list[str | None]
    """Their texts; None where none was stored."""
    values: list[float | None]
    """What the unit is on each; None where the site, or the cache, does not have the row."""
    hit: int | None
    """Which of them was asked about; None: the example was."""
    left_out: tuple[int, int]
    """Tokens of the example before and after these."""

    @property
    def known(self) -> list[float]:
        """The values that there are."""
        return [value for value in self.values if value is not None]


def passages_of(
    cache: Cache, site: Site, unit: int | Sequence[int] | None, examples: Sequence[int]
) -> list[Passage]:
    """Return whole examples, by their ids, with a unit of a site on each token.

    The tokens are as they were stored, also where a cache has some of the rows only: the others
    have no value then. Of an example with more than 4,096 tokens these are the first.

    Cost: reads one unit of the rows of these examples; one query of the index.

    Raises:
        SiteNotFoundError: there is no such site; names the nearest.
        QueryError: no such example, or several; the site is not of tokens; not one index for each
            dimension of a row.
        SelectionError: there is no such unit.

    Example:
        >>> from lazycache.samples import small_cache
        >>> (one,) = passages_of(small_cache(), "resid_out_0", 1, [0])
        >>> one.positions, one.values
        ([0, 1], [1.0, 3.0])
    """
    x = unit_of(tensor_of(cache, site), unit)
    check_tokens(x)
    first = [_first_row(x, example) for example in examples]
    return passages_around(x, np.array(first, dtype=np.int64), None)


def passages_around(x: LazyTensor, rows: np.ndarray, context: int | None) -> list[Passage]:
    """Return the tokens around rows, in their examples, with the value of each.

    Args:
        x: One number for each row of a dataset, as `unit_of` gives it; what is selected of its
            examples does not matter.
        rows: int64[n], rows of its source, as `top_k` finds them.
        context: Tokens on each side; None: the example from its beginning, and no hit.

    Cost: reads one unit of these rows, each once; one query of the index, or none.
    """
    if not len(rows):
        return []
    lows, counts = _window(x.source.examples(), rows, context)
    wanted = ragged_arange(lows, counts)
    source = as_array(x.source.examples().absolute(wanted))
    values, numbers = _values(x, source), np.empty(len(source), dtype=np.int64)
    for one in _origins(x, source):
        numbers[one.members] = one.rows
    known = np.split(numbers, np.cumsum(counts)[:-1]), np.split(values, np.cumsum(counts)[:-1])
    found: dict[int, Passage] = {}
    for one in _origins(x, rows):
        places = np.arange(len(rows))[one.members].tolist()
        found |= zip(places, _passages(one, places, known, context), strict=True)
    return [found[place] for place in range(len(rows))]


def check_tokens(x: LazyTensor) -> None:
    """Refuse what has no tokens: pooled sites, and tensors that are of no dataset.

    Raises:
        QueryError: it has none.
    """
    if x.source.origins is None:
        raise QueryError(
            f"{x!r} is of no dataset, so no text is known of its rows: ask a site of a cache that "
            "was opened, lc.open(url)."
        )
    if x.source.spec.table == EXAMPLES:
        raise QueryError(
            f"{x.site} has one row for each example, not one for each token: there are no tokens "
            "to colour. Ask a site that is not pooled."
        )


def _first_row(x: LazyTensor, example: int) -> int:
    """Return the first row that a site has of an example, by its id."""
    if isinstance(example, bool) or not isinstance(example, int | np.integer):
        raise QueryError(f"an example is asked for by its id, a number, not {example!r:.60}.")
    ids, rows = _first_rows(x)
    mine = rows[(ids == example) & (rows >= 0)]
    if not (ids == example).any():
        there = f"from {ids.min()} to {ids.max()}" if len(ids) else "none"
        raise QueryError(
            f"there is no example {example} in {x!r}. Ids, column `example` in SQL, are {there}."
        )
    if not len(mine):
        raise QueryError(f"{x.site} has no rows of example {example}: none of it was captured.")
    if len(mine) > 1:
        raise QueryError(
            f"{len(mine)} runs or datasets have an example {example}: choose a run, "
            """cache.where("run = 'main'"), or open one dataset."""
        )
    return int(mine[0])


def _first_rows(x: LazyTensor) -> tuple[np.ndarray, np.ndarray]:
    """Return ids of the selected examples, and a row of each: int64[n], -1 where there is none."""
    lead = x.lead
    if isinstance(lead, Grid):
        chosen = as_array(lead.examples)
        rows = np.full(len(chosen), -1, dtype=np.int64)
        there = lead.lengths() > 0
        rows[there] = as_array(lead.map.absolute(lead.map.offsets[chosen[there]]))
        return lead.map.example[chosen], rows
    rows = as_array(lead.flat())
    number, first = np.unique(x.source.examples().places(rows)[0], return_index=True)
    return x.source.examples().example[number], rows[first]


def _window(
    examples: ExampleMap, rows: np.ndarray, context: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return first logical rows, and how many, of what is around rows in their examples."""
    number, at = examples.places(rows)
    starts, lengths = examples.offsets[number], examples.lengths[number]
    if context is None:
        return starts, np.minimum(lengths, MOST_TOKENS)
    lows = np.maximum(0, at - context)
    return starts + lows, np.minimum(lengths, at + context + 1) - lows


def _values(x: LazyTensor, rows: np.ndarray) -> np.ndarray:
    """Return what is at rows, of which some may be there several times: float64[n]."""
    once, place = np.unique(rows, return_inverse=True)
    values: np.ndarray = x.values_of(once).cpu().double().numpy()
    return values[place]


def _origins(x: LazyTensor, rows: np.ndarray) -> Sequence[Origin]:
    assert x.source.origins is not None, "as check_tokens says"
    return x.source.origins(rows)


def _passages(
    origin: Origin,
    places: Sequence[int],
    known: tuple[list[np.ndarray], list[np.ndarray]],
    context: int | None,
) -> Iterator[Passage]:
    """Yield the passages of some places, whose rows are those of one table."""
    tables = origin.tables.whole
    examples = tables.examples_of(origin.table)
    number, at = examples.places(origin.rows)
    lows, counts = _window(examples, origin.rows, context)
    rows = as_array(examples.absolute(ragged_arange(lows, counts)))
    shown = columns_there(tables, origin.table)
    told = pages_of(tables, origin.table, shown).columns(tables, rows) if shown else {}
    nothing = [None] * len(rows)
    positions, tokens = told.get(POSITION, nothing), told.get(TOKEN, nothing)
    begins = np.cumsum(counts) - counts
    for i, place in enumerate(places):
        part = slice(int(begins[i]), int(begins[i] + counts[i]))
        values = dict(zip(known[0][place].tolist(), known[1][place].tolist(), strict=True))
        before = int(lows[i] - examples.offsets[number[i]])
        yield Passage(
            example=int(examples.example[number[i]]),
            rows=rows[part],
            positions=positions[part],
            tokens=tokens[part],
            values=[values.get(row) for row in rows[part].tolist()],
            hit=None if context is None else int(at[i]) - before,
            left_out=(before, int(examples.lengths[number[i]] - before - counts[i])),
        )
