"""Tables, facts, numbers and blocks: harmless whatever a dataset says."""

import math
from html.parser import HTMLParser

import pytest

from lazycache.faces.html import Html, block, card, facts, number, size, table, text

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "' onmouseover='alert(3)",
    "</td></tr></table>",
    "a\x00b\x1b[2J\u202e",
]


class Tags(HTMLParser):
    """The tags of a page, in order, and the text between them."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.said = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        """Note a tag; none may run anything or fetch anything."""
        self.open.append(tag)
        self.seen.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name == "src"]

    def handle_endtag(self, tag):
        """Every tag closes the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Note what a reader sees."""
        self.said.append(data)


@pytest.mark.parametrize("evil", EVIL)
def test_text_of_a_dataset_is_text_wherever_it_stands(evil):
    """No part of a page can be broken out of, and control characters are spelled out."""
    parts = (table([evil, "n"], [[evil, 1]], left=[evil]), facts([(evil, evil)]), block(evil))
    page = Tags(card(evil, *parts, kind=evil))
    assert not page.open
    assert {"script", "img"}.isdisjoint(page.seen)
    assert "\x1b" not in "".join(page.said)
    shown = evil.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert "".join(page.said).count(shown) == 7


def test_what_is_html_stays_and_is_known_to_templates():
    """Parts are put into each other; jinja asks `__html__`."""
    part = Html("<b>")
    assert text(part) == part.__html__() == "<b>"
    assert "<b>" in table(["x"], [[part]])


def test_numbers_have_five_digits_and_ids_all():
    """Small and large ones have an exponent; whole numbers are exact; what is none is said."""
    assert list(map(number, (0.0, -0.5, 123456.7, 1e6, 9.99e-4, -math.inf))) == [
        *("0", "-0.5", "123,457", "1e+06", "0.000999", "-inf"),
    ]
    assert (number(12345678), number(-0.0), number(99999.6)) == ("12,345,678", "0", "100,000")
    assert (size(999), size(1000), size(5e15)) == ("999 B", "1.00 kB", "5,000.00 TB")


def test_a_table_says_what_it_leaves_out():
    """Rows that are not shown are counted; a True is a word, not a number."""
    assert "... and 1,200 more" in table(["x"], [[1]], more=1200)
    assert "more" not in table(["x"], [[True]], more=-3)
    assert ">True</td>" in table(["x"], [[True]])
