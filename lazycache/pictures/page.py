"""A picture that is HTML: shown in a notebook, or saved as a page of its own."""

from __future__ import annotations

import os
from pathlib import Path

from lazycache.errors import StorageError
from lazycache.faces.html import text

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:1.5rem auto;padding:0 1rem}
"""
"""Of a page of its own: white or black as the reader has it."""


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
        """Write it as a page of its own, UTF-8; return where. It is light or dark as the reader is.

        Args:
            path: A file on this machine; one that is there is replaced.

        Raises:
            StorageError: it cannot be written.

        Example:
            >>> import tempfile
            >>> Page("<p>1 &lt; 2</p>", title="a < b").save(f"{tempfile.mkdtemp()}/a.html").name
            'a.html'
        """
        whole = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{text(self.title)}</title><style>{STYLE}</style></head>"
            f"<body>{self.html}</body></html>\n"
        )
        place = Path(path).expanduser()
        try:
            place.write_text(whole, encoding="utf-8")
        except OSError as exc:
            raise StorageError(
                f"Cannot save the page as {place}: {exc.strerror or exc}. Give a file in a folder "
                "that is there, page.save('unit.html')."
            ) from exc
        return place

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.html):,} characters of HTML)"
