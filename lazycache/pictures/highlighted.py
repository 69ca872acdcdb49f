"""The text of examples, each token coloured by what one unit is on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lazycache.errors import QueryError
from lazycache.faces.html import Html, card, facts, number
from lazycache.pictures.marked_text import legend, marked_text, scale_of
from lazycache.pictures.page import Page
from lazycache.query.passages import Passage, passages_of

if TYPE_CHECKING:
    from lazycache.query.asked import Cache, Site

TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7;margin:2px 0 14px"
"""Looks of a text: its lines are kept, and a long token is broken."""

MOST_EXAMPLES = 100
"""Examples of one page."""


def highlights(
    cache: Cache,
    site: Site,
    unit: int | Sequence[int] | None,
    example: int | Sequence[int],
    *,
    most: float | None = None,
) -> Page:
    """Show the text of examples, each token coloured by one unit: orange above zero, blue below.

    The number of a token is said on hover. The whole example is shown, as it was stored; tokens
    that the site does not have, or that a condition of the cache leaves out, have no colour. What a
    dataset says is escaped.

    Args:
        cache: Of datasets whose tokens have their text.
        site: A key of the cache, or a tensor of one: `cache["resid_out_3"].norm(dim=-1)`, say.
        unit: 0-based, an index for each dimension of a row; None for one number per row.
        example: Id of an example, or several.
        most: The absolute value that gets the strongest colour. None: the largest that is shown;
            first tokens that are three times as large as every other are left off the scale, and
            the page says so.

    Cost: reads one unit of the rows of these examples; one query of the index. Of an example with
    more than 4,096 tokens the first are shown.

    Raises:
        SiteNotFoundError: there is no such site; names the nearest.
        QueryError: no such example, or of several runs; a site without tokens (pooled), or without
            their text; not one index for each dimension of a row; `most` is not above zero.
        SelectionError: there is no such unit.

    Example:
        >>> from lazycache.samples import text_cache
        >>> page = highlights(text_cache(), "resid_out_0", 1, example=[0, 1])
        >>> page.title
        'resid_out_0, unit 1, examples 0, 1'
        >>> "cat" in page.html
        True
    """
    ids = list(example) if isinstance(example, Iterable) else [example]
    _check(ids, most)
    passages = passages_of(cache, site, unit, ids)
    _check_text(passages)
    name = named(site, unit)
    top = scale_of(passages) if most is None else float(most)
    parts = [_scale(top, passages), *(_example(passage, top) for passage in passages)]
    shown = ", ".join(str(one) for one in ids[:5]) + (", …" if len(ids) > 5 else "")  # noqa: PLR2004
    title = f"{name}, example{'s' if len(ids) > 1 else ''} {shown}"
    return Page(card(title, *parts), title=title)


def named(site: Site, unit: int | Sequence[int] | None) -> str:
    """Return what a site and a unit of it are called, as plain text.

    Example:
        >>> named("z_3", (1, 5)), named("score", None)
        ('z_3, unit 1, 5', 'score')
    """
    name = site if isinstance(site, str) else str(getattr(site, "site", "values"))
    if unit is None:
        return name
    place = [unit] if isinstance(unit, int | np.integer) else list(unit)
    return f"{name}, unit {', '.join(str(int(one)) for one in place)}"


def _check(ids: Sequence[int], most: float | None) -> None:
    if not 0 < len(ids) <= MOST_EXAMPLES:
        raise QueryError(f"{len(ids):,} examples: a page shows 1 to {MOST_EXAMPLES}, by their ids.")
    if most is not None and not (math.isfinite(most) and most > 0):
        raise QueryError(f"most={most!r}: the absolute value of the strongest colour, above zero.")


def _check_text(passages: Sequence[Passage]) -> None:
    if all(token is None for passage in passages for token in passage.tokens):
        raise QueryError(
            "No text of these tokens is stored, so there is nothing to colour: capture with "
            "tokenizer=..., which stores it. The values are in cache[site][...].load()."
        )


def _scale(most: float, passages: Sequence[Passage]) -> Html:
    negative = any(value < 0 for passage in passages for value in passage.known)
    scale = legend(most, passages, negative=negative)
    return Html(f'<div style="font-size:12px;margin:4px 0 10px">{scale}</div>')


def _example(passage: Passage, most: float) -> str:
    finite = [value for value in passage.known if math.isfinite(value)]
    said = facts(
        [
            ("example", str(passage.example)),
            ("tokens", len(passage.tokens) + sum(passage.left_out)),
            ("from", f"{number(min(finite))} to {number(max(finite))}" if finite else None),
        ]
    )
    looks = f'dir="ltr" style="{TEXT}"'
    return f"{said}<div {looks}>{marked_text(passage, most)}</div>"
