"""Pages: HTML that a notebook shows, and that stands alone once it is saved."""

import pytest

from lazycache.errors import StorageError
from lazycache.pictures import Page


def test_a_page_stands_alone(tmp_path) -> None:
    """Its title is escaped, its text is UTF-8, it follows light and dark, and loads nothing."""
    page = Page("<p>⏎ ö</p>", title="a </title><script>\x1b")
    written = page.save(tmp_path / "a.html").read_bytes().decode("utf-8")
    assert page._repr_html_() == "<p>⏎ ö</p>"
    assert "<body><p>⏎ ö</p></body>" in written
    assert "<title>a &lt;/title&gt;&lt;script&gt;\\x1b</title>" in written
    assert ":root{color-scheme:light dark}" in written
    assert not [tag for tag in ("<script", "<link", "src=", "http", "@import") if tag in written]


def test_what_cannot_be_written_says_so(tmp_path) -> None:
    """A folder that is not there, and a folder in place of a file."""
    for place in (tmp_path / "none" / "a.html", tmp_path):
        with pytest.raises(StorageError, match="Give a file in a folder that is there"):
            Page("", title="a").save(place)
