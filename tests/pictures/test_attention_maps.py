"""What tokens attend to, drawn: one head with its tokens, all heads of a layer."""

import numpy as np
import pytest
import torch
from dataset_helpers import gpt2

import lazycache as lc
from lazycache.errors import QueryError
from lazycache.pictures import attention, heads
from lazycache.query.attending.attention_maps import AttentionMap
from lazycache.samples import pattern_cache

ODD = ["<script>", "$x^{2$", "\n", "\t", " ", "", "\x00", "\u202e", "\u4e2d", "a" * 300, None]


@pytest.fixture(scope="module")
def cache():
    return pattern_cache()


def made(queries, keys, *, count=2, tokens=None, head=None):
    values = torch.rand(count, queries, keys, generator=torch.Generator().manual_seed(0))
    tokens = tokens or [f"t{i}" for i in range(keys)]
    return AttentionMap(
        values,
        site="pattern_3",
        example=7,
        head=head,
        keys=tokens,
        queries=tokens[-queries:],
        positions=np.arange(keys - queries, keys),
    )


def ticks(axis):
    return [one.get_text() for one in axis.get_ticklabels()]


def test_a_head_is_drawn_with_its_tokens(cache):
    """Queries are rows, keys columns; what no query can see is left white."""
    picture = attention(cache, 1, 0, 0)
    axes = picture.figure.axes[0]
    (image,) = axes.images
    np.testing.assert_allclose(picture.values["attention"], np.tri(3) / np.array([[1], [2], [3]]))
    np.testing.assert_array_equal(image.get_array().mask, np.triu(np.ones((3, 3)), 1) > 0)
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == ["0", "1", "2"]
    assert picture.title == "pattern_0 head 0, example 1"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")


def test_a_map_that_is_there_is_drawn_as_it_is(cache):
    """What `cache.attention` gave gives the same picture, whole or of one head."""
    whole, one = cache.attention(1, 0), cache.attention(1, 0, 1)
    expected = attention(cache, 1, 0, 1).values["attention"]
    for picture in (attention(whole, head=1), attention(one), attention(one, head=1)):
        np.testing.assert_array_equal(picture.values["attention"], expected)
        assert picture.title == "pattern_0 head 1, example 1"


def test_odd_tokens_are_labels(tmp_path):
    """Tokens of any kind are drawn without a warning, each in one line."""
    picture = attention(made(11, 11, tokens=ODD), head=0)
    axes = picture.figure.axes[0]
    assert ticks(axes.xaxis)[:6] == ["<script>", r"\$x^{2\$", "⏎", "⇥", "·", "∅"]
    assert ticks(axes.yaxis)[6:] == [r"\x00", r"\u202e", r"\u4e2d", "a" * 13 + "…", "10"]
    assert not axes.images[0].get_array().mask.any()
    picture.save(tmp_path / "odd.png")


def test_a_long_example_is_labelled_by_position():
    """Of more than 40 tokens some positions are labelled; a window has the tokens again."""
    found = made(60, 60, head=2, count=1)
    axes = attention(found).figure.axes[0]
    assert ticks(axes.xaxis) == [str(at) for at in range(0, 60, 5)]
    near = attention(found, window=(50, 90))
    assert ticks(near.figure.axes[0].yaxis) == [f"t{i}" for i in range(50, 60)]
    np.testing.assert_array_equal(near.values["attention"], found.values[0, 50:, 50:].numpy())


def test_a_few_queries_are_a_band():
    """Queries that were captured alone keep their positions, and nothing of them is hidden."""
    picture = attention(made(2, 30, head=0, count=1))
    axes = picture.figure.axes[0]
    assert ticks(axes.yaxis) == ["t28", "t29"]
    assert not axes.images[0].get_array().mask.any()
    width, height = picture.figure.get_size_inches()
    assert height < width / 2


def test_all_heads_are_side_by_side_in_the_same_colours(cache):
    """Each head has a map with its number, and all of them one scale."""
    picture = heads(cache, 1, 0)
    drawn = picture.figure.axes[:2]
    assert [axes.get_title() for axes in drawn] == ["0", "1"]
    assert {axes.images[0].norm.vmax for axes in drawn} == {1.0}
    np.testing.assert_array_equal(picture.values["attention"][1], np.eye(3))
    assert picture.title == "pattern_0, 2 heads, example 1"


def test_heads_that_were_stored_alone_keep_their_numbers(tmp_path):
    """The second and the last head of a model are drawn under their own numbers."""
    model = gpt2(n_head=4, attn_implementation="eager")
    stored = lc.extract(
        model, [[1, 2, 3]], tmp_path / "a", ["pattern_0"], heads={"pattern_0": [1, 3]}
    )
    drawn = heads(stored, 0, 0).figure.axes[:2]
    assert [axes.get_title() for axes in drawn] == ["1", "3"]
    one = attention(stored, 0, 0, 3)
    assert one.title == "pattern_0 head 3, example 0"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda c: attention(c, 1, 0), "has 2 heads: say head=0"),
        (lambda c: attention(c, 1), "say which example and which layer"),
        (lambda c: attention(c.attention(1, 0), 1, 0), "map of example 1 of pattern_0 already"),
        (lambda c: attention(c.attention(1, 0), head=5), "no head 5 in pattern_0: .* 0 to 1"),
        (lambda c: attention(c.attention(1, 0, 1), head=0), "of head 1, not of head 0"),
        (lambda c: attention(c, 1, 0, 0, window=(9, 12)), "queries at positions 0 to 2, and 3"),
        (lambda _: heads(made(1, 1, count=200)), "200 heads, 144 are drawn"),
    ],
)
def test_what_cannot_be_drawn_says_what_can(cache, ask, said):
    """A question that means no map, or several, is refused with what to ask."""
    with pytest.raises(QueryError, match=said):
        ask(cache)
