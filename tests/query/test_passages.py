"""Passages: tokens of examples, each with the value of its own row."""

import numpy as np
import pytest
import torch
from top_helpers import corpus

import lazycache as lc
from lazycache.cache.joined.join import join
from lazycache.errors import QueryError
from lazycache.query import passages
from lazycache.query.asked import unit_of
from lazycache.query.passages import passages_around, passages_of

LENGTHS = (3, 1, 5, 2)
WORDS = ["<b>", " a", "\n", "&amp;", " x", " y", None, " z", " w", "'\"", " end"]
EXAMPLES = np.repeat(np.arange(4), LENGTHS)
VALUES = torch.tensor([0.0, 1, 2, 3, 10, 5, 6, 7, 8, 9, 4])


@pytest.fixture(scope="module")
def cache() -> lc.ActivationCache:
    """Return 11 tokens of 4 examples, and a pooled site."""
    values = torch.stack([VALUES, -VALUES], 1)
    pooled = {"p": torch.arange(4.0).reshape(-1, 1)}
    return corpus({"x": values}, LENGTHS, tokens=[*WORDS], pooled=pooled, step=2)


def test_whole_examples_have_the_value_of_each_token(cache) -> None:
    """In the order that is asked for, also of what is worked out, and of rows that were chosen."""
    for values, found in (
        (-VALUES, passages_of(cache, "x", 1, [2, 0])),
        (VALUES * 2, passages_of(cache, cache["x"] * 2, 0, [2, 0])),
        (VALUES, passages_of(cache, cache["x"][[2, 0], :2], 0, [2, 0])),
    ):
        for example, one in zip([2, 0], found, strict=True):
            rows = np.flatnonzero(example == EXAMPLES)
            assert (one.example, one.hit, one.left_out) == (example, None, (0, 0))
            assert one.rows.tolist() == rows.tolist()
            assert one.positions == [2 * i for i in range(len(rows))]
            assert one.tokens == [WORDS[row] for row in rows]
            assert one.values == values[rows].tolist()


def test_rows_that_a_cache_leaves_out_have_no_value(cache) -> None:
    """Their tokens are there."""
    (one,) = passages_of(cache.where("position >= 4"), "x", 0, [2])
    assert one.tokens == WORDS[4:9]
    assert one.values == [None, None, 6, 7, 8]


def test_what_is_around_rows_is_of_their_example(cache, monkeypatch) -> None:
    """Windows may overlap and stop at the ends of an example; values are those of their rows."""
    x, rows = unit_of(cache["x"], 0), np.array([6, 0, 5, 3, 10])
    for row, one in zip(rows.tolist(), passages_around(x, rows, 1), strict=True):
        near = [i for i in range(row - 1, row + 2) if 0 <= i < 11 and EXAMPLES[i] == EXAMPLES[row]]
        assert one.rows.tolist() == near
        assert one.rows[one.hit] == row
        assert one.values == VALUES[near].tolist()
        mine = np.flatnonzero(EXAMPLES[row] == EXAMPLES)
        assert one.left_out == (near[0] - mine[0], mine[-1] - near[-1])
    assert passages_around(x, rows[:0], 1) == []
    monkeypatch.setattr(passages, "MOST_TOKENS", 4)
    (long,) = passages_of(cache, "x", 0, [2])
    assert (long.values, long.left_out) == ([10, 5, 6, 7], (0, 1))


def test_each_of_several_datasets_has_its_own_tokens(cache) -> None:
    """Rows of joined datasets are told apart; an id that both have is refused."""
    other = corpus({"x": torch.full((3, 2), 7.0)}, (3,), tokens=["one", " two", " three"])
    x = unit_of(join([cache["x"], other["x"]]), 0)
    first, second = passages_around(x, np.array([12, 1]), 1)
    assert (first.tokens, first.values) == (["one", " two", " three"], [7, 7, 7])
    assert (second.tokens, second.values) == (["<b>", " a", "\n"], [0, 1, 2])
    with pytest.raises(QueryError, match=r"2 runs or datasets have an example 0: choose a run"):
        passages_of(cache, x, None, [0])


def test_what_has_no_tokens_is_refused(cache) -> None:
    """Pooled sites, tensors of no dataset, ids that are not there: the error says what is."""
    lacking = corpus({"x": torch.zeros(11, 1)}, LENGTHS, tokens=None, lacking=2)
    for site, unit, example, said in (
        ("p", 0, 0, "p has one row for each example, not one for each token"),
        (torch.zeros(3, 2), 0, 0, "is of no dataset"),
        ("x", 0, 9, r"there is no example 9 in .* are from 0 to 3\."),
        ("x", 0, True, "by its id, a number, not True"),
        ("x", None, 0, "is one number"),
    ):
        with pytest.raises(QueryError, match=said):
            passages_of(cache, site, unit, [example])
    with pytest.raises(QueryError, match="x has no rows of example 4: none of it was captured"):
        passages_of(lacking, "x", 0, [4])
    (one,) = passages_of(lacking, "x", 0, [1])
    assert (one.tokens, one.values) == ([None], [0.0])
