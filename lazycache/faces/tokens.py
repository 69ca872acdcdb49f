"""How a token is shown: no character is invisible, none is obeyed, none fills the line. Pure."""

from __future__ import annotations

import re

from lazycache.plain_text import in_lines

_UNSEEN = re.compile(
    # of no width wherever they stand
    r"[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u2060-\u2064\u206a-\u206f"
    "\u2800\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e007f]"
    # joiners, which emoji and some scripts need between letters
    "|^[\u200c\u200d\ufe00-\ufe0f]+|[\u200c\u200d]+$"
)
_SPACES = re.compile("[\u1680\u2000-\u200a\u202f\u205f\u3000]")

LETTERS = 24
"""Letters of a token that a label shows."""


def label(token: str | None, *, letters: int = LETTERS) -> str:
    r"""Return a token as a label in one line: spaces are dots, ends of lines arrows, rest is cut.

    Args:
        token: The text as it was stored; None is a token whose text is not known.
        letters: How many are shown, at most; the last is an ellipsis where more were there.

    Example:
        >>> label(" the"), label("\n"), label("a" * 30, letters=4), label(None), label("")
        ('·the', '⏎', 'aaa…', '?', '∅')
    """
    if token is None:
        return "?"
    text = flowing(token).replace("\n", "").replace(" ", "·").replace("\u00a0", "⍽") or "∅"
    text = _SPACES.sub(_spelled, text)
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def in_line(text: str) -> str:
    r"""Return text as it stands in one line: ends of lines are arrows, spaces stay.

    Example:
        >>> in_line("a b\n\tc\x1b")
        'a b⏎⇥c\\x1b'
    """
    return flowing(text).replace("\n", "")


def flowing(token: str) -> str:
    r"""Return a token as it stands in a text that keeps its lines: white space can be seen.

    An end of line is an arrow before the end of line, a tab an arrow; what a terminal or a page
    would obey is spelled out, and so is what nobody would see: letters of no width, and joiners
    that join nothing.

    Example:
        >>> flowing("a\n\tb\x1b"), flowing("\u200b"), flowing("a\u200db\u200d")
        ('a⏎\n⇥b\\x1b', '\\u200b', 'a\u200db\\u200d')
    """
    text = _UNSEEN.sub(_spelled, in_lines(token.replace("\r\n", "\n")))
    return text.replace("\t", "⇥").replace("\n", "⏎\n")


def _spelled(found: re.Match[str]) -> str:
    # Python escapes what it does not print, and prints some of what nobody sees
    return "".join(
        f"\\u{ord(one):04x}" if one.isprintable() else repr(one)[1:-1] for one in found[0]
    )
