"""Highlights: every token of a text is there, as text, in the colour of its number."""

import re

import numpy as np
import pytest
import torch
from html_reading import ATTRIBUTES, TAGS, Shown
from top_helpers import corpus

from lazycache.errors import QueryError
from lazycache.faces.colours import background
from lazycache.pictures import highlights
from lazycache.pictures.marked_text import by_class, legend, marked_text, scale_of
from lazycache.query.passages import Passage

HOSTILE = [
    *("<script>alert(1)</script>", '" onmouseover="alert(1)', "&lt;b&gt;", "\n", "\t", ""),
    *(None, "a\x00\x1b[2J", "\u202eabc", "שלום", " the", "x" * 900),
]


def passage(tokens, values, *, hit=None, left_out=(0, 0)) -> Passage:
    """Return tokens that are an example from its beginning."""
    numbers = np.arange(len(tokens))
    return Passage(0, numbers, numbers.tolist(), tokens, values, hit, left_out)


def test_tokens_cannot_become_anything_but_text() -> None:
    """No element and no attribute is of a token; invisible ones are spelled out, long ones cut."""
    values = torch.linspace(-1, 1, len(HOSTILE))[:, None]
    cache = corpus({"</b>": values}, (len(HOSTILE),), tokens=HOSTILE)
    page = highlights(cache, "</b>", 0, 0)
    shown = Shown.of(page.html)
    assert shown.tags <= TAGS
    assert shown.attributes <= ATTRIBUTES
    assert page.title == "</b>, unit 0, example 0"
    assert page.title in shown.text
    assert [text for text, *_ in shown.tokens] == [
        *("<script>alert(1)</script>", '" onmouseover="alert(1)', "&lt;b&gt;", "⏎\n", "⇥", "∅"),
        *("?", "a\\x00\\x1b[2J", "\\u202eabc", "שלום", "the", "x" * 399 + "…"),
    ]
    titles = [title for _, title, _ in shown.tokens]
    assert titles[0] == "<script>alert(1)</scrip…: -1, position 0"
    assert titles[10] == "·the: 0.81818, position 10"
    assert "<bdi" in page.html


def test_a_token_has_the_colour_of_its_number() -> None:
    """Orange above zero, blue below, by the largest of all examples, or by what is given."""
    values = torch.tensor([[0.0], [4.0], [-2.0], [-8.0], [2.0]])
    cache = corpus({"x": values}, (3, 2), tokens=["a", " b", " c", "d", " e"])
    for most, steps in ((None, [0, 5, -2, -10, 2]), (4.0, [0, 10, -5, -10, 5])):
        page = highlights(cache, "x", 0, [0, 1], most=most)
        looks = [style for *_, style in Shown.of(page.html).tokens]
        want = [f"background:{background(at)};border-radius:3px" if at else "" for at in steps]
        assert looks == want
        assert ("1 beyond the scale, up to -8" in page.html) == (most == 4.0)
    text = Shown.of(highlights(cache, "x", 0, 1).html).text
    assert "example 1 · tokens 2 · from -8 to 2" in text
    assert text.endswith("d e")


def test_first_tokens_are_left_off_the_scale_where_they_are_far_beyond() -> None:
    """Three times as large as every other; what the site lacks, NaN and infinity are no scale."""
    odd = [None, float("nan"), float("inf")]
    assert scale_of([passage(list("abcdef"), [100.0, -3.0, 2.0, *odd])]) == 3.0
    assert scale_of([passage(["a", "b"], [9.0, -3.0])]) == 9.0
    assert scale_of([passage(["a", "b"], [9.0, 0.0])]) == 9.0
    far = [passage(["a", "b"], [100.0, 2.0])]
    assert "1 beyond the scale, up to 100" in legend(2.0, far)
    assert "beyond" not in legend(100.0, far)


def test_words_stand_as_they_are_read() -> None:
    """Pieces of words are joined, lines kept or not, and classes stand for styles."""
    pieces = passage(["[CLS]", "cat", "##s", "sit"], [0.0, 1.0, -1.0, None], hit=1, left_out=(2, 3))
    html = marked_text(pieces, 1.0, paint=by_class)
    assert Shown.of(html).text == "… [CLS] cats sit …"
    assert "style" not in html
    looks = [(looks, title.partition(",")[0]) for _, title, looks in Shown.of(html).tokens]
    assert looks == [
        ("", "[CLS]: 0"),
        ("p10 hit", "cat: 1"),
        ("n10", "##s: -1"),
        ("", "sit: no value"),
    ]
    lines = passage(["a", "\n\n", "  b"], [0.0] * 3, left_out=(0, 1200))
    assert Shown.of(marked_text(lines, 1.0)).text == "a⏎\n⏎\n  b … 1,200 more tokens"
    assert Shown.of(marked_text(lines, 1.0, lines=False)).text.startswith("a⏎⏎  b")


def test_what_comes_again_and_again_is_short_among_others() -> None:
    """Rules and indents, of a token's own, fill no lines around a hit; a whole text has them."""
    tokens = ["-" * 9, " " * 9, " " * 9 + "a", "-" * 8]
    passage = Passage(0, np.arange(4), [0, 1, 2, 3], tokens, [None] * 4, None, (0, 0))
    assert Shown.of(marked_text(passage, 1.0)).text == "".join(tokens)
    brief = marked_text(passage, 1.0, lines=False)
    assert Shown.of(brief).text == "----…    …    a--------"
    assert f'title="{tokens[0]}: no value, position 0"' in brief


def test_links_of_blanks_have_a_name() -> None:
    """Who hears a page is told of a token that leads somewhere and shows nothing; others say it."""
    passage = Passage(0, np.arange(2), [0, 1], ["a", "  "], [None] * 2, None, (0, 0))
    html = marked_text(passage, 1.0, paint=by_class, link=lambda place: f"/{place}")
    assert re.findall("<a .*?>", html) == [
        '<a href="/0">',
        '<a href="/1" aria-label="··: no value, position 1">',
    ]


def test_what_cannot_be_shown_is_refused() -> None:
    """No text of tokens, no examples, too many, no scale: the error says what to do."""
    cache = corpus({"x": torch.zeros(3, 1)}, (3,))
    for arguments, said in (
        (([0],), "No text of these tokens is stored.* capture with tokenizer="),
        (([],), "0 examples: a page shows 1 to 100"),
        ((range(101),), "101 examples"),
        ((0.5,), "by its id, a number, not 0.5"),
    ):
        with pytest.raises(QueryError, match=said):
            highlights(cache, "x", 0, *arguments)
    with pytest.raises(QueryError, match="above zero"):
        highlights(cache, "x", 0, 0, most=0.0)
