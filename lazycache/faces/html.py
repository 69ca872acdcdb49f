"""Parts of a page in a notebook: tables, facts and numbers, light or dark. Pure.

Everything is written with the colour of the page (`currentColor`) and lines that are see-through,
so that it can be read on white and on black. There are no scripts, no style sheets and nothing that
would be fetched; what is not `Html` already is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

from lazycache.plain_text import in_lines, in_one_line

LETTERS = 200
"""Letters of a text that are shown, at most."""

LEAST, MOST = 1e-3, 1e6
"""Absolute values between these are written without an exponent."""

_RULE = "1px solid rgba(128,128,128,.3)"
_CELL = "padding:1px 10px"
_MONO = "font-family:ui-monospace,Menlo,Consolas,monospace"


class Html(str):
    """Text that is HTML already: it is put into a page as it is. Templates know it by `__html__`.

    Example:
        >>> text("<b>"), text(Html("<b>"))
        ('&lt;b&gt;', '<b>')
    """

    __slots__ = ()

    def __html__(self) -> str:
        """Return itself, as templates ask."""
        return str(self)


def text(value: object, *, letters: int = LETTERS) -> Html:
    r"""Return a value as harmless HTML in one line: escaped, and nothing in it is obeyed.

    Args:
        value: Anything; None is nothing, `Html` stays as it is.
        letters: How many are shown, at most; the last is an ellipsis where more were there.

    Example:
        >>> text("a\n<script>"), text(None), text("abcdef", letters=3)
        ('a\\n&lt;script&gt;', '', 'ab…')
    """
    if isinstance(value, Html):
        return value
    shown = "" if value is None else in_one_line(str(value))
    if len(shown) > letters:
        shown = f"{shown[: letters - 1]}…"
    return Html(escape(shown))


def number(value: float | None) -> str:
    """Return a number as people read it in a table: five digits; None is nothing.

    Example:
        >>> number(1234567), number(0.123456789), number(1e-9), number(float("nan")), number(2.0)
        ('1,234,567', '0.12346', '1e-09', 'nan', '2')
    """
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    if LEAST <= abs(value) < MOST:
        digits = max(0, 4 - math.floor(math.log10(abs(value))))
        shown = f"{value:,.{digits}f}"
        return shown.rstrip("0").rstrip(".") if "." in shown else shown
    return f"{value:.4g}"


def vector(values: Sequence[float], *, shown: int = 3) -> str:
    """Return the first numbers of some, and how many there are.

    Example:
        >>> vector([0.5, 1.0, 2.0, 3.0]), vector([1.5])
        ('[0.5, 1, 2, … 4]', '[1.5]')
    """
    said = [number(value).replace(",", "") for value in values[:shown]]
    return f"[{', '.join([*said, *([f'… {len(values)}'] if len(values) > shown else [])])}]"


def size(nbytes: float) -> str:
    """Return bytes as people read them, in decimal units.

    Example:
        >>> size(100), size(2_345_678), size(3e9)
        ('100 B', '2.35 MB', '3.00 GB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(nbytes) < 1000 or unit == "TB":  # noqa: PLR2004  # the next unit
            break
        nbytes /= 1000
    return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:,.2f} {unit}"


def dtype_name(dtype: object) -> str:
    """Return a dtype as people say it, also one of torch.

    Example:
        >>> dtype_name("torch.bfloat16"), dtype_name("float32")
        ('bfloat16', 'float32')
    """
    return str(dtype).removeprefix("torch.")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    left: Collection[str] = (),
    more: int = 0,
) -> Html:
    """Return a table: numbers as `number` writes them, at the right; the rest as text.

    It carries style attributes, for notebooks: a page with a strict policy makes its own tables.

    Args:
        columns: What is written above.
        rows: A cell for each column: a number, `Html`, None or anything that has a text.
        left: Columns that are written from the left: words.
        more: Rows that are not shown, said below.

    Example:
        >>> "<td" in table(["unit", "mean"], [[0, 0.25]])
        True
    """
    sides = ["left" if name in left else "right" for name in columns]
    head = "".join(
        f'<th scope="col" style="{_CELL};text-align:{side};border-bottom:{_RULE}">{text(name)}</th>'
        for name, side in zip(columns, sides, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(_cell(value, side) for value, side in zip(row, sides, strict=True))}</tr>"
        for row in rows
    )
    below = f"<div style='opacity:.7'>... and {more:,} more</div>" if more > 0 else ""
    return Html(
        f'<table style="border-collapse:collapse;margin:4px 0;{_MONO};font-size:12px">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def block(said: str, *, letters: int = 20_000) -> Html:
    r"""Return text of several lines as a block that keeps them, escaped and harmless.

    Example:
        >>> "a&lt;\nb" in block("a<\nb")
        True
    """
    shown = in_lines(said)
    if len(shown) > letters:
        shown = f"{shown[: letters - 1]}…"
    style = f"{_MONO};font-size:12px;margin:4px 0;background:none;color:inherit;overflow-x:auto"
    return Html(f'<pre style="{style}">{escape(shown)}</pre>')


def facts(pairs: Iterable[tuple[str, Any]]) -> Html:
    """Return what is known of a thing in one line: names and values, those that are not None.

    Example:
        >>> facts([("rows", 1200), ("run", None)])
        '<div style="margin:2px 0"><span style="opacity:.65">rows</span> 1,200</div>'
    """
    said = (
        f'<span style="opacity:.65">{text(name)}</span> {_shown(value)}'
        for name, value in pairs
        if value is not None
    )
    return Html(f'<div style="margin:2px 0">{" · ".join(said)}</div>')


def card(title: object, *parts: str, kind: str = "") -> Html:
    """Return a titled block of parts that are HTML already (`table`, `facts`, SVG).

    Args:
        title: What it is about.
        parts: Below each other.
        kind: The kind of thing, before the title: `ActivationCache`.

    Example:
        >>> card("resid_out_0", facts([("rows", 3)]), kind="LazyTensor")[:4]
        '<div'
    """
    before = f'<span style="opacity:.65">{text(kind)}</span> ' if kind else ""
    return Html(
        f'<div style="color:inherit;font-size:13px;line-height:1.45;overflow-x:auto">'
        f'<div style="margin:2px 0">{before}<strong>{text(title)}</strong></div>'
        f"{''.join(parts)}</div>"
    )


def _cell(value: object, side: str) -> str:
    # spaces of text stay
    kept = ";white-space:pre-wrap" if side == "left" else ""
    return f'<td style="{_CELL};text-align:{side}{kept}">{_shown(value)}</td>'


def _shown(value: object) -> Html:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return text(number(value) if is_number else value)  # type: ignore[arg-type]  # as is_number says
