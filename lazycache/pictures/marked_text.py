"""A text with each token coloured by a number: HTML that is made of passages. Pure.

Orange is above zero, blue below, and the number is said on hover. No style sheet and no script is
needed; `by_class` writes no style attributes either, for pages with a strict policy.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TypeAlias

from lazycache.faces.colours import STEPS, background, step
from lazycache.faces.html import Html, number
from lazycache.faces.tokens import flowing, label
from lazycache.query.contexts import as_read
from lazycache.query.passages import Passage

Paint: TypeAlias = Callable[[int, bool], str]
"""Gives the attribute of a token: of a step of colour, and whether it is the one asked about."""

Link: TypeAlias = Callable[[int], str]
"""Gives the address that a token leads to, by its place in the passage."""

FIRST = 3.0
"""First tokens that are so many times as large as all others are left off the scale."""

LETTERS = 400
"""Letters of a token that are shown."""

_ARROW = re.compile("[⏎⇥∅]")
SHORT = 4
"""How often a letter or a blank is shown that comes again and again."""

_RUN = re.compile(r"(.)\1{8,}", re.DOTALL)
"""One letter or blank again and again: rules and indents fill the lines around a hit."""

_GAP = re.compile(r" +(?=[^ \n])")


def by_style(at: int, hit: bool) -> str:
    """Return a style attribute: for notebooks, and for pages of their own.

    Example:
        >>> by_style(-10, False), by_style(0, False)
        (' style="background:rgba(40,110,200,0.72);border-radius:3px"', '')
    """
    looks = [f"background:{background(at)}"] if at else []
    looks += ["outline:1.5px solid currentColor"] if hit else []
    return f' style="{";".join([*looks, "border-radius:3px"])}"' if looks else ""


def by_class(at: int, hit: bool) -> str:
    """Return a class attribute: p1 to p10 above zero, n1 to n10 below, and `hit`.

    Example:
        >>> by_class(3, True), by_class(-2, False), by_class(0, False)
        (' class="p3 hit"', ' class="n2"', '')
    """
    names = [f"{'p' if at > 0 else 'n'}{abs(at)}"] if at else []
    names += ["hit"] if hit else []
    return f' class="{" ".join(names)}"' if names else ""


def scale_of(passages: Iterable[Passage]) -> float:
    """Return the absolute value that gets the strongest colour: the largest of all shown.

    The first token of a text is often far from all others, whatever it is: where first tokens are
    three times as large as every other they are left off the scale, so that the rest can be seen.

    Example:
        >>> scale_of([])
        0.0
    """
    first, rest = 0.0, 0.0
    for passage in passages:
        for position, value in zip(passage.positions, passage.values, strict=True):
            if value is None or not math.isfinite(value):
                continue
            if position == 0:
                first = max(first, abs(value))
            else:
                rest = max(rest, abs(value))
    return rest if rest and first > FIRST * rest else max(first, rest)


def marked_text(
    passage: Passage,
    most: float,
    *,
    paint: Paint = by_style,
    lines: bool = True,
    letters: int = LETTERS,
    link: Link | None = None,
) -> Html:
    """Return the tokens of a passage as they are read, each with its colour and its number.

    White space is kept: show it in an element with `white-space:pre-wrap`. All text is escaped, and
    what a page would obey is spelled out.

    Args:
        passage: What is shown.
        most: The absolute value that gets the strongest colour.
        paint: `by_style`, or `by_class` where style attributes are not allowed.
        lines: Ends of lines end a line; else they are an arrow only, and letters and blanks that
            come again and again are shortened.
        letters: How many are shown of a token; the last is an ellipsis where more were there.
        link: Gives the address that a token leads to, by its place in the passage; None: none do.

    Example:
        >>> import numpy as np
        >>> one = Passage(0, np.arange(2), [0, 1], ["a", " <b>"], [1.0, None], None, (0, 0))
        >>> print(marked_text(one, 1.0, paint=by_class))
        <span class="p10" title="a: 1, position 0">a</span> <span title="·&lt;b&gt;: no value, \
position 1">&lt;b&gt;</span>
    """
    texts = as_read([token or "" for token in passage.tokens])
    before, after = passage.left_out
    first = "" if not texts or texts[0].startswith(" ") else " "
    parts = [f"…{first}" if before else ""]
    for i, shown in enumerate(texts):
        attribute = paint(_step(passage.values[i], most), i == passage.hit)
        spaces, word = _parted(shown)
        if not lines:
            spaces, word = spaces[:SHORT], _RUN.sub(_brief, word)
        word = _shown(word, lines=lines, letters=letters) or label(passage.tokens[i])
        address = None if link is None else link(i)
        parts.append(f"{spaces}{_element(word, attribute, _said(passage, i), address)}")
    if after:
        parts.append(" …" if passage.hit is not None else f" … {after:,} more tokens")
    return Html("".join(parts))


def legend(
    most: float, passages: Sequence[Passage] = (), *, paint: Paint = by_style, negative: bool = True
) -> Html:
    """Return the scale of colours with its ends, and what is beyond it.

    Args:
        most: The absolute value of the ends.
        passages: What is shown: says how many of their tokens are beyond the ends.
        paint: As in `marked_text`.
        negative: Whether there are values below zero.

    Example:
        >>> legend(2.0, paint=by_class, negative=False).count("<span")
        11
    """
    steps = range(-STEPS if negative else 0, STEPS + 1)
    boxes = "".join(f"<span{paint(at, False)}>&nbsp;</span>" for at in steps)
    beyond = [
        value
        for passage in passages
        for value in passage.known
        if math.isfinite(value) and abs(value) > most
    ]
    far = max(beyond, key=abs, default=0.0)
    left = f"-{number(most)}" if negative else "0"
    said = f" · {len(beyond):,} beyond the scale, up to {number(far)}" if beyond else ""
    return Html(f"{left} {boxes} {number(most)}{said}")


def _step(value: float | None, most: float) -> int:
    return 0 if value is None else step(value, most)


def _said(passage: Passage, i: int) -> str:
    value, position = passage.values[i], passage.positions[i]
    said = "no value" if value is None else number(value)
    place = "" if position is None else f", position {position}"
    return f"{label(passage.tokens[i])}: {said}{place}"


def _parted(text: str) -> tuple[str, str]:
    """Return the spaces before a word, which have no colour, so that words stand apart; the rest.

    Example:
        >>> _parted(" a b"), _parted("  ")
        ((' ', 'a b'), ('', '  '))
    """
    gap = _GAP.match(text)
    return (gap[0], text[gap.end() :]) if gap else ("", text)


def _brief(run: re.Match[str]) -> str:
    return f"{run[1] * SHORT}…"


def _shown(text: str, *, lines: bool, letters: int) -> str:
    shown = flowing(text)
    if len(shown) > letters:
        shown = f"{shown[: letters - 1]}…"
    return shown if lines else shown.replace("\n", "")


def _element(shown: str, attribute: str, said: str, address: str | None) -> str:
    """Return a token in colour; arrows, which no token has, are smaller than its letters."""
    # letters that are written from the right keep their neighbours where they are
    name = "bdi" if any(unicodedata.bidirectional(c) in {"R", "AL"} for c in shown) else "span"
    inside = _ARROW.sub(r"<small>\g<0></small>", escape(shown))
    element = f'<{name}{attribute} title="{escape(said)}">{inside}</{name}>'
    if address is None:
        return element
    # who hears the page needs a name where there are blanks
    spoken = "" if shown.strip() else f' aria-label="{escape(said)}"'
    return f'<a href="{escape(address)}"{spoken}>{element}</a>'
