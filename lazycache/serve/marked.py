"""Texts of examples with a colour for each token, as pages have them: classes, no styles. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lazycache.pictures.marked_text import legend, marked_text

if TYPE_CHECKING:
    from lazycache.faces.html import Html
    from lazycache.pictures.marked_text import Link
    from lazycache.query.passages import Passage

BRIEF = 60
"""Letters of a token among others in a line."""


def painted(at: int, hit: bool) -> str:
    """Return the class attribute of a token by its step of colour.

    Example:
        >>> painted(3, True), painted(-10, False)
        (' class="token p3 hit"', ' class="token n10"')
    """
    colour = f" {'p' if at > 0 else 'n'}{abs(at)}" if at else ""
    return f' class="token{colour}{" hit" if hit else ""}"'


def whole(passage: Passage, most: float, *, link: Link | None = None) -> Html:
    """Return the text of an example, of which ends of lines end a line.

    Args:
        passage: The tokens and their values.
        most: The absolute value that has the strongest colour.
        link: Gives the address that a token leads to, by its place; None: none do.

    Example:
        >>> import numpy as np
        >>> from lazycache.query.passages import Passage
        >>> print(whole(Passage(0, np.arange(1), [4], [None], [0.5], 0, (0, 0)), 1.0).strip())
        <span class="token p5 hit" title="·4: 0.5, position 4">4</span>
    """
    return marked_text(_spelled(passage), most, paint=painted, link=link)


def line(passage: Passage, most: float) -> Html:
    """Return what is around a row in one paragraph, in which ends of lines are arrows."""
    return marked_text(_spelled(passage), most, paint=painted, lines=False, letters=BRIEF)


def scale(most: float, passages: Sequence[Passage]) -> Html:
    """Return the legend of some texts: what the colours mean, and how much is beyond them."""
    negative = any(value < 0 for passage in passages for value in passage.known)
    return legend(most, passages, paint=_box, negative=negative)


def _box(at: int, hit: bool) -> str:
    return painted(at, hit).replace("token", "box")


def _spelled(passage: Passage) -> Passage:
    """Give tokens of which no text was stored their positions as text."""
    if any(token is not None for token in passage.tokens):
        return passage
    texts: list[str | None] = [
        f" {place}" if place is not None else " –" for place in passage.positions
    ]
    return replace(passage, tokens=texts)
