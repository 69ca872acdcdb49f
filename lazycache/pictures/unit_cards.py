"""What one unit does, on one card: numbers, a histogram, and the texts in which it is largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.aggregates.reduce import no_rows
from lazycache.errors import QueryError
from lazycache.faces.bars import bars
from lazycache.faces.html import card, facts, number, text
from lazycache.pictures.highlighted import named
from lazycache.pictures.marked_text import legend, marked_text
from lazycache.pictures.page import Page
from lazycache.query.asked import tensor_of, unit_of
from lazycache.query.contexts import check_context
from lazycache.query.describing.distributions import firing_rates
from lazycache.query.finding.top import best_of_unit
from lazycache.query.hits import hits_of
from lazycache.query.passages import passages_around

if TYPE_CHECKING:
    from lazycache.cache.aggregates.statistics import Statistics
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.hits import Hit
    from lazycache.query.passages import Passage

QUANTILES = (0.01, 0.5, 0.99)
"""What is marked in the histogram."""

BINS = 60
"""Bars of the histogram."""

LETTERS = 60
"""Letters of a token that are shown."""

MOST_HITS = 200
"""Examples that a card shows from each end."""

HELD_BYTES = 256 << 20
"""A unit is read once and held up to this size; a larger one is read several times."""

SHARE = 0.25
"""The smallest are shown where the unit goes so far below zero, by how far it goes above."""

STEEP = 20
"""A histogram whose highest bar has so many times its mean is drawn on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows from one end of a unit, with what is around them where it is known."""

    title: str
    hits: list[Hit]
    passages: list[Passage]


def unit_card(
    cache: Cache,
    site: Site,
    unit: int | Sequence[int] | None,
    k: int = 10,
    context: int = 20,
    *,
    per_example: bool = True,
    smallest: bool | None = None,
    where: str | None = None,
    params: Params = None,
) -> Page:
    """Show what one unit does: numbers, a histogram, and the texts in which it is largest.

    Each of the texts has all its tokens coloured, not only the one that was found, which has a
    frame, and its number is said on hover. Where the unit goes below zero too, the texts in which
    it is smallest follow. The strongest colour is that of the best hit of each list. Sites without
    tokens (pooled) show the ids of the examples. What a dataset says is escaped.

    Args:
        cache: Any cache.
        site: A key of it, or a tensor.
        unit: 0-based, an index for each dimension of a row; None for one number per row.
        k: How many texts from each end.
        context: Tokens on each side.
        per_example: The best token of each example only; else one text may be there several times.
        smallest: Whether to show the texts in which the unit is smallest; None: where it goes below
            zero, a quarter as far as above at least.
        where: A condition in SQL on the rows: `"position > 0"` leaves first tokens out.
        params: Values for the parameters of the condition.

    Cost: the unit is read once and held, up to 256 MiB; a larger one is read four times, in blocks.
    The greatest are mostly known without reading (`top_k`). One query of the index for the texts.

    Raises:
        SiteNotFoundError: there is no such site; names the nearest.
        SelectionError: there is no such unit, or there are no rows.
        QueryError: not one index for each dimension of a row; `k` or `context` is no such number;
            no such column in `where`.

    Example:
        >>> from lazycache.samples import text_cache
        >>> page = unit_card(text_cache(), "resid_out_0", 1, k=2)
        >>> page.title
        'resid_out_0, unit 1'
        >>> "<svg" in page.html, "Stop" in page.html
        (True, True)
    """
    _check(k, context)
    x = unit_of(tensor_of(cache, site, where=where, params=params), unit)
    if not x.rows.shape[0]:
        raise no_rows("unit_card")
    held: Any = x.rows.load() if x.nbytes <= HELD_BYTES else x
    numbers = tensor_of(cache, held).statistics()
    ends = [True, False] if _both(numbers, smallest) else [True]
    found = [_found(x, k, context, per_example, largest=largest) for largest in ends]
    title = named(site, unit)
    above = float(firing_rates(cache, held))
    said = [_facts(numbers, above, where), *_histogram(cache, held, numbers)]
    return Page(card(title, *said, *map(_texts, found)), title=title)


def _check(k: int, context: int) -> None:
    check_context(context)
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MOST_HITS:
        raise QueryError(f"k={k!r}: a card shows 1 to {MOST_HITS} texts from each end.")


def _both(numbers: Statistics, smallest: bool | None) -> bool:
    if smallest is not None:
        return smallest
    low, high = float(numbers.min), float(numbers.max)
    return low < 0 and -low >= SHARE * high


def _found(x: LazyTensor, k: int, context: int, per_example: bool, *, largest: bool) -> _Found:
    values, rows = best_of_unit(x, k, largest=largest, per_example=per_example)
    hits = hits_of(x, values, rows, context=0)
    texts = any(token is not None for token in hits.tokens)
    passages = passages_around(x, rows, context) if texts else []
    return _Found("Largest" if largest else "Smallest", list(hits), passages)


def _facts(numbers: Statistics, above: float, where: str | None) -> str:
    odd = [("NaN", numbers.nans), ("inf", numbers.pos_infs), ("-inf", numbers.neg_infs)]
    return facts(
        [
            ("rows", numbers.rows),
            ("mean", float(numbers.mean)),
            ("std", float(numbers.std)),
            ("min", float(numbers.min)),
            ("max", float(numbers.max)),
            ("above 0", f"{above:.2%}"),
            *((name, int(count)) for name, count in odd if int(count)),
            ("where", where),
        ]
    )


def _histogram(cache: Cache, held: Any, numbers: Statistics) -> list[str]:
    """Return the histogram of the finite values with quantiles; nothing where there are none."""
    x = tensor_of(cache, held)
    if x.dtype == torch.bool or not int(numbers.finite):
        return []
    counts, edges = x.histogram(BINS)
    cuts = x.quantile(list(QUANTILES), interpolation="lower")
    assert isinstance(cuts, torch.Tensor), "over all rows"
    marks = [(f"{q:.0%}", value) for q, value in zip(QUANTILES, cuts.tolist(), strict=True)]
    steep = int(counts.max()) > STEEP * float(counts.double().mean())
    title = "histogram of the unit"
    drawn = bars(counts.numpy(), edges.numpy(), marks=marks, title=title, log=steep)
    return [f'<div style="margin:6px 0">{drawn}</div>']


def _texts(found: _Found) -> str:
    finite = [abs(float(hit.value)) for hit in found.hits if math.isfinite(hit.value)]
    most = max(finite, default=0.0)
    negative = any(value < 0 for passage in found.passages for value in passage.known)
    scale = legend(most, found.passages, negative=negative) if found.passages else ""
    lines = [
        _line(hit, found.passages[i] if found.passages else None, most)
        for i, hit in enumerate(found.hits)
    ]
    return (
        f'<div style="margin:14px 0 4px"><strong>{found.title}</strong> '
        f'<span style="font-size:12px;margin-left:14px">{scale}</span></div>'
        f'<div style="line-height:1.6">{"".join(lines)}</div>'
    )


def _line(hit: Hit, passage: Passage | None, most: float) -> str:
    """Return one line: value, whose row it is, and the text around it."""
    place = "" if hit.position is None else f", position {hit.position}"
    shown = "" if passage is None else marked_text(passage, most, lines=False, letters=LETTERS)
    return (
        '<div style="display:flex;gap:12px;padding:3px 0;border-top:1px solid '
        'rgba(128,128,128,.25)">'
        f'<span style="flex:0 0 5em;text-align:right">{number(float(hit.value))}</span>'
        f'<span style="flex:0 0 7em;opacity:.65" title="example {text(hit.example)}{place}">'
        f"example {text(hit.example)}</span>"
        f'<span dir="ltr" style="white-space:pre-wrap;overflow-wrap:anywhere">{shown}</span></div>'
    )
