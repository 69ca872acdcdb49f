"""Hits as what they say, and contexts that never cross an example."""

import html
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from top_helpers import corpus

import lazycache as lc
from lazycache.errors import StorageError
from lazycache.query import token_pages
from lazycache.query.contexts import Context, Surroundings
from lazycache.query.hits import Hits

LENGTHS = (3, 1, 5, 2)
WORDS = ["<b>", " a", "\n", "&amp;", " x", " y", None, " z", " w", "'\"", " end"]
EXAMPLES = np.repeat(np.arange(4), LENGTHS)
POSITIONS = [2 * place for length in LENGTHS for place in range(length)]


@pytest.fixture(scope="module")
def cache() -> lc.ActivationCache:
    """Return 11 tokens of 4 examples, at even positions; row 4 has the largest value."""
    values = torch.tensor([0.0, 1, 2, 3, 10, 5, 6, 7, 8, 9, 4]).reshape(-1, 1)
    return corpus({"x": values}, LENGTHS, tokens=WORDS, step=2)


@given(rows=st.lists(st.integers(0, 10), max_size=9), n=st.integers(0, 6))
@settings(max_examples=30)
def test_contexts_are_the_tokens_of_the_example(cache, rows, n) -> None:
    """As many as there are on each side, in the order that is asked for, a row perhaps twice."""
    for row, found in zip(rows, cache.context(rows, n), strict=True):
        if WORDS[row] is None:
            assert found is None
            continue
        mine = [i for i in range(11) if EXAMPLES[i] == EXAMPLES[row] and abs(i - row) <= n]
        assert found.token == WORDS[row]
        assert found.before == tuple(WORDS[i] or "" for i in mine if i < row)
        assert found.after == tuple(WORDS[i] or "" for i in mine if i > row)


@pytest.mark.parametrize("most_pages", [0, 256], ids=["rows", "pages"])
@pytest.mark.parametrize("scanned_rows", [0, 1 << 18], ids=["ranges", "list"])
def test_pages_of_tokens_are_asked_for_once(monkeypatch, most_pages, scanned_rows) -> None:
    """Of many small pages in little memory the texts are the same; what is kept is not asked."""
    monkeypatch.setattr(token_pages, "PAGE_ROWS", 4)
    monkeypatch.setattr(token_pages, "MOST_PAGES", most_pages)
    monkeypatch.setattr(token_pages, "SCANNED_ROWS", scanned_rows)
    cache = corpus({"x": torch.zeros(11, 1)}, LENGTHS, tokens=WORDS, step=2)
    (sites,) = cache.datasets
    asked: list[str] = []
    answer = sites.sql
    monkeypatch.setattr(sites, "sql", lambda *args: asked.append(args[0]) or answer(*args))
    pages = token_pages.pages_of(sites, "tokens", ("token", "position"))
    for rows, queries in (([9, 1, 1, 10], 2), ([0, 10], 0), ([5], 1), ([*range(11)], 0)):
        asked.clear()
        found = pages.columns(sites, np.array(rows))
        assert found["token"] == [WORDS[row] for row in rows]
        assert found["position"] == [POSITIONS[row] for row in rows]
        if most_pages:
            assert len(asked) == (queries if scanned_rows == 0 else min(queries, 1))
    monkeypatch.setattr(token_pages, "KEPT_BYTES", 1)
    small = token_pages.Pages(sites, "tokens", ("token",))
    assert small.columns(sites, np.arange(11))["token"] == WORDS
    assert len(small._kept) == min(most_pages, 1)
    cache.close()
    with pytest.raises(StorageError, match="closed"):
        pages.columns(sites, np.array([1]))


@pytest.mark.parametrize(
    ("scanned_rows", "kept_bytes", "fetched"),
    [(1 << 18, 1 << 20, [2, 9, 0, 0]), (0, 1 << 20, [2, 2, 2, 0]), (1 << 18, 1, [2, 9, 2, 2])],
    ids=["small", "large", "too large to keep"],
)
def test_a_small_table_is_kept_whole_when_it_is_asked_again(
    cache, monkeypatch, scanned_rows, kept_bytes, fetched
) -> None:
    """The second question brings all pages, the third has none; never what could not stay."""
    monkeypatch.setattr(token_pages, "PAGE_ROWS", 2)
    monkeypatch.setattr(token_pages, "SCANNED_ROWS", scanned_rows)
    monkeypatch.setattr(token_pages, "KEPT_BYTES", kept_bytes)
    (sites,) = cache.datasets
    asked: list[int] = []
    ask = token_pages.Pages._asked
    monkeypatch.setattr(
        token_pages.Pages,
        "_asked",
        lambda pages, sites, spans: (
            asked.append(int((spans.stops - spans.starts).sum())) or ask(pages, sites, spans)
        ),
    )
    pages = token_pages.Pages(sites, "tokens", ("token",))
    found = []
    for row in (0, 7, 3, 7):
        asked.clear()
        assert pages.columns(sites, np.array([row]))["token"] == [WORDS[row]]
        found.append(sum(asked))
    assert found == fetched


def test_a_page_that_another_thread_kept_meanwhile_is_still_given(cache, monkeypatch) -> None:
    """Who found a page lacking gets it, though somebody else keeps all pages before it is asked."""
    monkeypatch.setattr(token_pages, "PAGE_ROWS", 2)
    (sites,) = cache.datasets
    pages = token_pages.Pages(sites, "tokens", ("token",))
    pages.columns(sites, np.array([0]))
    decide = pages._worth_asking

    def overtaken(lacking):
        monkeypatch.setattr(pages, "_worth_asking", decide)
        pages.columns(sites, np.array([9]))  # keeps all
        return decide(lacking)

    monkeypatch.setattr(pages, "_worth_asking", overtaken)
    assert pages.columns(sites, np.array([3]))["token"] == [WORDS[3]]


def test_contexts_are_whole_where_rows_were_chosen(cache) -> None:
    """A cache of some rows, and a condition, choose hits and not what is around them."""
    part = cache.where("position >= 4")
    want = cache.context([8])[0]
    assert len(want.before) == 4
    for hits in (part.top_k("x", 0, k=1), cache.top_k("x", 0, k=1, where="position >= 4")):
        assert (hits.rows.tolist(), hits.contexts) == ([8], [want])
    assert part.context([8]) == [want]
    assert cache.context([], 3) == []
    assert cache.context(8) == [want]


def test_a_table_of_hits_gives_words_their_spaces() -> None:
    """Tokens that mark where a word goes on are joined to words, in columns that can be read."""
    around = Context(("the", "cat", "##s"), "sat", ("on", "it"))
    part = Surroundings(np.array([3]), [0], [3], ["sat"], [around])
    (row,) = Hits("x", torch.ones(1), part).arrow().to_pylist()
    assert (row["before"], row["token"], row["after"]) == ("the cats", "sat", " on it")


def test_a_hit_says_where_it_is(cache) -> None:
    """Value, row, id of the example, stored position, token; slices are hits again."""
    hits = cache.top_k("x", 0, k=4, context=1)
    assert hits.rows.tolist() == [4, 9, 8, 7]
    assert (hits[0].value, hits[0].row, hits[0].example, hits[0].position) == (10.0, 4, 2, 0)
    assert (hits[0].token, hits[0].context.before, hits[0].context.after) == (" x", (), (" y",))
    assert isinstance(hits[1:], Hits)
    assert [hit.row for hit in hits[1:3]] == [9, 8]
    assert hits[-1] == list(hits)[3]
    plain = cache.top_k("x", 0, k=4, context=0)
    assert (plain.contexts, plain.tokens) == ([None] * 4, hits.tokens)
    table = hits.arrow()
    assert table.column("value").to_pylist() == [10.0, 9.0, 8.0, 7.0]
    assert hits.df().position.tolist() == hits.positions


def test_html_shows_all_text_as_text(cache) -> None:
    """Tokens cannot become tags: what a browser shows is what was stored."""
    shown = cache.top_k("x", 0, k=11)._repr_html_()
    assert "<b>" not in shown
    assert re.search("<mark style=[^>]+>&lt;b&gt;</mark>", shown)
    assert "&amp;amp;" in shown
    assert set(re.findall(r"</?(\w+)", shown)) == {
        *("div", "span", "strong", "table", "thead", "tbody", "tr", "th", "td", "mark")
    }
    cells = re.findall(r"<td[^>]+text-align:left[^>]*>(.*?)</td>", shown, re.DOTALL)
    # the row without a token has no context
    assert html.unescape(re.sub("<[^>]+>", "", cells[0])) == " x y z w"
    assert "" in cells


def test_text_shows_one_line_for_each(cache) -> None:
    """Line ends of tokens are written out; of many hits some are shown."""
    hits = cache.top_k("x", 0, k=11)
    lines = repr(hits).splitlines()
    assert len(lines) == 13
    assert "[\\n]" in "".join(lines)
    many = cache.top_k(torch.arange(60.0).reshape(-1, 1), 0, k=60)
    assert repr(many).endswith("... and 10 more")
    assert "position" not in repr(many)
    assert "... and 10 more" in many._repr_html_()
    assert repr(many[:0]) == "Hits of tensor: 0\n  value  row  example  position  context"
