"""A picture that is HTML: shown in a notebook, or saved as a page of its own."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from lazycache.errors import StorageError

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color-scheme:light dark}
"""


class Page:
    """A piece of HTML without scripts: `page.html`, `page.save("unit.html")`.

    A notebook shows it as it is. Nothing in it is loaded from elsewhere; what comes from a dataset
    is escaped.

    Example:
        >>> Page("<p>1 &lt; 2</p>", title="a < b")
        Page('a < b', 15 characters of HTML)
    """

    def __init__(self, html: str, *, title: str) -> None:
        self.html = html
        """What a notebook shows: one element, with its own style."""
        self.title = title
        """What it is of, as plain text."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as a page of its own, UTF-8; return where.

        Raises:
            StorageError: it cannot be written.
        """
        whole = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>"
            f"<body>{self.html}</body></html>\n"
        )
        place = Path(path).expanduser()
        try:
            place.write_text(whole, encoding="utf-8")
        except OSError as exc:
            raise StorageError(f"Cannot save the page as {place}: {exc.strerror or exc}.") from exc
        return place

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.html):,} characters of HTML)"
