"""What the page of a unit shows, worked out: numbers, a histogram, rows that were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lazycache.faces.bars import bars
from lazycache.faces.html import Html
from lazycache.pictures.marked_text import scale_of
from lazycache.query.contexts import columns_there
from lazycache.query.passages import passages_around
from lazycache.serve.examples_there import Name, columns_of, names_of, told_of
from lazycache.serve.marked import line, scale
from lazycache.serve.units import Unit, sql_of

if TYPE_CHECKING:
    from lazycache.cache.aggregates.statistics import Statistics
    from lazycache.query.hits import Hits
    from lazycache.query.passages import Passage

TOP, LOWEST = 12, 6
"""Rows in which the unit is largest, and smallest, that are shown."""

AROUND = 16
"""Tokens on each side of a row that was found."""

BINS = 60
"""Bars of the histogram."""

BARS = (480, 170)
"""Pixels of the histogram, without its axis."""

NOTHING = Html("")
"""No text."""

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Quantiles that are told; the outer ones and the middle are marked in the histogram."""


@dataclass(frozen=True, slots=True)
class Found:
    """One row that was found."""

    value: float
    """The unit in it."""
    name: Name
    """Its example."""
    position: int | None
    """Its position; None of rows that are whole examples."""
    text: Html
    """The tokens around it; empty of rows that are whole examples."""
    told: list[tuple[str, Any]]
    """Of rows that are whole examples: their columns."""


@dataclass(frozen=True, slots=True)
class Extremes:
    """The rows in which the unit is largest and smallest."""

    largest: list[Found]
    """Largest first."""
    smallest: list[Found]
    """Smallest first; none where the unit is never below zero."""
    legend: Html
    """What the colours mean; empty of rows that are whole examples."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the values of the unit are distributed."""

    drawn: Html
    """The histogram, SVG; empty where all values are not finite."""
    above_zero: float
    """Share of the rows in which it is above zero."""
    quantiles: list[tuple[str, float]]
    """Name and value."""


def statistics_of(unit: Unit) -> list[tuple[str, float | int]]:
    """Return the numbers of a unit that are stored with its site, by name.

    Cost: of all rows of a site with statistics no shard is read.

    Raises:
        SelectionError: there are no rows.
    """
    told: Statistics = unit.one.statistics()
    numbers: list[tuple[str, float | int]] = [
        ("rows", told.rows),
        ("mean", float(told.mean)),
        ("std", float(told.std)),
        ("least", float(told.min)),
        ("greatest", float(told.max)),
    ]
    odd = (("NaN", told.nans), ("+∞", told.pos_infs), ("−∞", told.neg_infs))
    return numbers + [(name, int(count)) for name, count in odd if int(count)]


def distribution_of(unit: Unit) -> Distribution:
    """Return the histogram, the quantiles and the firing rate of a unit.

    Cost: reads the unit in every row, three times.
    """
    counted = unit.cache.histogram(unit.one, BINS) if _finite(unit) else None
    above = float(unit.cache.firing_rates(unit.one))
    found = unit.cache.quantiles(unit.one, QUANTILES).tolist()
    told = [(f"{q:.0%}", value) for q, value in zip(QUANTILES, found, strict=True)]
    if counted is None:
        return Distribution(NOTHING, above, told)
    title = f"Histogram of unit {unit.spelled} of {unit.site}"
    marks = [told[0], told[2], told[4]]
    # of most units most values lie close together: the others are seen on a log scale only
    drawn = bars(
        counted.counts.numpy(),
        counted.edges.numpy(),
        title=title,
        marks=marks,
        log=True,
        width=BARS[0],
        height=BARS[1],
    )
    return Distribution(drawn, above, told)


def _finite(unit: Unit) -> bool:
    return int(unit.one.statistics().finite) > 0


def extremes_of(unit: Unit) -> Extremes:
    """Return the rows in which a unit is largest and smallest, with what is around them.

    Cost: as `ActivationCache.top_k`, twice, and the unit in the rows around what was found.
    """
    rows = [_hits(unit, TOP, largest=True)]
    smallest = _hits(unit, LOWEST, largest=False)
    rows.append(smallest if len(smallest) and smallest[0].value < 0 else smallest[:0])
    around = [_around(unit, hits) for hits in rows]
    shown = [passage for passages in around for passage in passages]
    most = scale_of(shown)
    largest, lowest = (
        _found(unit, hits, passages, most) for hits, passages in zip(rows, around, strict=True)
    )
    return Extremes(largest, lowest, scale(most, shown) if shown else NOTHING)


def query_of(unit: Unit) -> str | None:
    """Return the SQL that finds the largest rows of a unit; None of what is no column."""
    return sql_of(unit, columns=columns_there(unit.cache.stored, unit.x.source.spec.table))


def _hits(unit: Unit, k: int, *, largest: bool) -> Hits:
    return unit.cache.top_k(
        unit.one, k=k, largest=largest, per_example=unit.asked.distinct, context=0
    )


def _around(unit: Unit, hits: Hits) -> list[Passage]:
    if not unit.of_tokens or not len(hits):
        return []
    return passages_around(unit.one, hits.rows, AROUND)


def _found(unit: Unit, hits: Hits, passages: list[Passage], most: float) -> list[Found]:
    names = _names(unit, hits.rows)
    if unit.of_tokens:
        return [
            Found(hit.value, name, hit.position, line(one, most), [])
            for hit, name, one in zip(hits, names, passages, strict=True)
        ]
    columns = columns_of(unit.cache.stored)
    cells = told_of(unit.cache.stored, hits.rows.tolist(), columns) if columns else [[]] * len(hits)
    return [
        Found(hit.value, name, None, NOTHING, list(zip(columns, one, strict=True)))
        for hit, name, one in zip(hits, names, cells, strict=True)
    ]


def _names(unit: Unit, rows: np.ndarray) -> list[Name]:
    sites = unit.cache.stored
    known = sites.whole.examples_of(unit.x.source.spec.table)
    numbers, _ = known.places(rows)
    return names_of(sites, known, numbers.tolist())
