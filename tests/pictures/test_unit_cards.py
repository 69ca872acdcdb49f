"""Unit cards: the numbers of the unit, and the texts of its best tokens, coloured."""

import re

import numpy as np
import pytest
import torch
from html_reading import ATTRIBUTES, TAGS, Shown
from top_helpers import corpus

from lazycache.errors import QueryError, SelectionError
from lazycache.pictures import unit_card

LENGTHS = [7] * 6
VALUES = torch.randn(42, 2, generator=torch.Generator().manual_seed(0))
WORDS = [f" <i>{i}" for i in range(42)]


@pytest.fixture(scope="module")
def cache():
    """Return 6 examples of 7 tokens; unit 1 is never below zero, but for a hundredth."""
    values = torch.stack([VALUES[:, 0], VALUES[:, 1].abs() - 0.01], 1)
    pooled = {"p": torch.tensor([[3.0], [float("nan")], [5.0], [4.0], [1.0], [2.0]])}
    return corpus({"x": values}, LENGTHS, tokens=WORDS, pooled=pooled)


def _lines(html: str) -> list[tuple[float, int]]:
    """Return value and example of each line, in order."""
    found = re.findall(r'text-align:right">([^<]*)</span>.*?>example (\d+)</span>', html)
    return [(float(value), int(example)) for value, example in found]


def test_the_best_of_each_example_come_with_all_their_tokens(cache) -> None:
    """As `top_k` finds them, from both ends, each with its context and one frame."""
    page = unit_card(cache, "x", 0, k=3, context=2)
    best = [cache.top_k("x", 0, k=3, per_example=True, largest=end) for end in (True, False)]
    want = [(hit.value, hit.example) for hits in best for hit in hits]
    assert _lines(page.html) == [(pytest.approx(value, rel=1e-4), one) for value, one in want]
    shown = Shown.of(page.html)
    assert shown.tags <= TAGS
    assert shown.attributes <= ATTRIBUTES
    framed = [text for text, _, looks in shown.tokens if "outline" in looks]
    assert framed == [hit.token.strip() for hits in best for hit in hits]
    near = [row for hits in best for hit in hits for row in range(hit.row - 2, hit.row + 3)
            if row // 7 == hit.row // 7]  # fmt: skip
    assert [text for text, *_ in shown.tokens] == [WORDS[row].strip() for row in near]


def test_a_card_says_the_numbers_of_its_rows(cache) -> None:
    """Of all rows, or of those that are chosen; quantiles are marked in the histogram."""
    for where, rows in ((None, np.arange(42)), ("position > 0", np.flatnonzero(np.arange(42) % 7))):
        html = unit_card(cache, "x", 0, k=1, where=where).html
        values = VALUES[rows, 0].double()
        text = Shown.of(html).text
        said = {name: re.search(rf"{name} (\S+)", text)[1] for name in ("rows", "mean", "max")}
        assert int(said["rows"]) == len(rows)
        assert float(said["mean"]) == pytest.approx(values.mean().item(), rel=1e-3)
        assert float(said["max"]) == pytest.approx(values.max().item(), rel=1e-4)
        assert f"above 0 {(values > 0).double().mean():.2%}" in text
        assert (f"where {where}" in text) == (where is not None)
        middle = float(re.search(r">50% ([^<]+)<", html)[1])
        assert middle == pytest.approx(values.median().item(), rel=1e-4)


def test_the_smallest_are_shown_where_they_say_something(cache) -> None:
    """Where a unit goes below zero a quarter as far as above, or where they are asked for."""
    for unit, smallest, want in (
        (0, None, True),
        (1, None, False),
        (1, True, True),
        (0, False, False),
    ):
        html = unit_card(cache, "x", unit, k=1, smallest=smallest).html
        assert ("Smallest" in html) == want
        assert "Largest" in html


def test_sites_without_text_show_whose_rows_they_are(cache) -> None:
    """Pooled sites, and a site of nothing but NaN: no contexts, and no colours."""
    html = unit_card(cache, "p", 0, k=2).html
    assert _lines(html) == [(5.0, 2), (4.0, 3)]
    assert Shown.of(html).tokens == []
    assert "NaN 1" in Shown.of(html).text
    nothing = unit_card(cache, torch.full((3, 1), torch.nan), 0)
    assert ("<svg" in nothing.html, _lines(nothing.html)) == (False, [])


def test_what_cannot_be_asked_is_refused(cache) -> None:
    """No such number of texts, no such unit, no rows."""
    for k in (0, 201, True):
        with pytest.raises(QueryError, match="a card shows 1 to 200 texts"):
            unit_card(cache, "x", 0, k=k)
    with pytest.raises(QueryError, match="how many on each side"):
        unit_card(cache, "x", 0, context=-1)
    with pytest.raises(SelectionError):
        unit_card(cache, "x", 2)
    with pytest.raises(SelectionError, match="no rows"):
        unit_card(cache, "x", 0, where="position > 99")
