"""How a token is shown: no character is invisible, none is obeyed, none fills the line. Pure."""

from __future__ import annotations

from lazycache.plain_text import in_lines

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
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def flowing(token: str) -> str:
    r"""Return a token as it stands in a text that keeps its lines: white space can be seen.

    An end of line is an arrow before the end of line, a tab an arrow; what a terminal or a page
    would obey is spelled out.

    Example:
        >>> flowing("a\n\tb\x1b")
        'a⏎\n⇥b\\x1b'
    """
    return in_lines(token.replace("\r\n", "\n")).replace("\t", "⇥").replace("\n", "⏎\n")
