"""Text of datasets as matplotlib draws it: nothing is mathematics, no letter is a box."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from lazycache.faces.tokens import label
from lazycache.pictures.picture import part_of_matplotlib
from lazycache.plain_text import in_one_line

LETTERS = 14
"""Letters of a token beside a picture."""

_NUMBERED = re.compile(r"(?P<kind>.*)_(?P<layer>[0-9]+)")


def drawn_token(token: str | None, *, letters: int = LETTERS) -> str:
    r"""Return a token as a label in one line: what the font lacks is spelled out, `$` is a dollar.

    Example:
        >>> drawn_token(" the"), drawn_token("$x$"), drawn_token("\U00020000")
        ('·the', '\\$x\\$', '\\U00020000')
    """
    return _cut(label(token, letters=letters + 1), letters)


def drawn_text(text: str, *, letters: int = 80) -> str:
    r"""Return other text, a name or a title, in the same way; spaces stay.

    Example:
        >>> drawn_text("a$b\n"), drawn_text("x" * 9, letters=4)
        ('a\\$b\\n', 'xxx…')
    """
    return _cut(in_one_line(text), letters)


def drawn_number(value: float) -> str:
    """Return a number in few digits.

    Example:
        >>> drawn_number(25731.2), drawn_number(-0.00123), drawn_number(4.5)
        ('25,731', '-0.00123', '4.5')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"  # noqa: PLR2004


def layer_labels(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return what to write along an axis of sites, and at each: numbers where only these differ.

    Example:
        >>> layer_labels(["resid_out_0", "resid_out_1"]), layer_labels(["embed", "resid_out_0"])
        (('resid_out, layer', ['0', '1']), ('', ['embed', 'resid_out_0']))
    """
    found = [_NUMBERED.fullmatch(name) for name in names]
    kinds = {one["kind"] for one in found if one is not None}
    if None in found or len(kinds) != 1 or len(names) == 1:
        return "", [drawn_text(name, letters=24) for name in names]
    return f"{drawn_text(kinds.pop())}, layer", [one["layer"] for one in found if one is not None]


def every(count: int, *, most: int) -> range:
    """Return the places that are labelled, of `count`: the first, and each so many after it.

    Example:
        >>> list(every(4, most=9)), list(every(30, most=8)), list(every(512, most=8))
        ([0, 1, 2, 3], [0, 5, 10, 15, 20, 25], [0, 100, 200, 300, 400, 500])
    """
    steps = (step * 10**power for power in range(12) for step in (1, 2, 5))
    return range(0, count, next(step for step in steps if -(-count // step) <= most))


def _cut(text: str, letters: int) -> str:
    """Return as many whole letters as fit, the last an ellipsis where some are left out."""
    pieces = list(_spelled(text))
    if sum(map(len, pieces)) > letters and len(pieces) > 1:
        while pieces and sum(map(len, pieces)) > letters - 1:
            pieces.pop()
        pieces.append("…")
    return "".join(pieces).replace("$", r"\$")


def _spelled(text: str) -> Iterator[str]:
    """Yield letters, those without a glyph as escapes, or the text would be a row of boxes."""
    managing = part_of_matplotlib("font_manager")
    families = managing.FontProperties().get_family()
    places = {managing.findfont(managing.FontProperties(family=[family])) for family in families}
    fonts = [managing.get_font(place) for place in places]
    for letter in text:
        # a joiner of no width has a glyph, which nobody sees
        seen = unicodedata.category(letter) != "Cf"
        there = seen and any(font.get_char_index(ord(letter)) for font in fonts)
        yield letter if there else letter.encode("ascii", "backslashreplace").decode()
