"""Bars of what each part wrote of a direction: they add up."""

import numpy as np
import pytest
import torch
from top_helpers import corpus

from lazycache.errors import QueryError
from lazycache.pictures import attribution
from lazycache.query.attending.attributed import Attribution

NAMES = ("embed", "attn_out_0", "mlp_out_0", "attn_out_1")


def found(*values, total=None):
    return Attribution(
        NAMES,
        values,
        total=sum(values) if total is None else total,
        site="resid_out_1",
        example=4,
        position=2,
    )


def names(picture):
    return [one.get_text() for one in picture.figure.axes[0].get_yticklabels()]


def test_the_largest_have_bars_and_the_rest_is_one():
    """By size, whatever the sign; what is left is one bar, and all of them sum to the total."""
    picture = attribution(found(1.0, -3.0, 0.5, 0.25, total=-1.0), top=2)
    assert names(picture) == ["attn_out_0", "embed", "2 smaller parts", "remainder"]
    np.testing.assert_allclose(picture.values["attribution"], [-3.0, 1.0, 0.75, 0.25])
    widths = [bar.get_width() for bar in picture.figure.axes[0].patches]
    np.testing.assert_allclose(widths, [-3.0, 1.0, 0.75, 0.25])
    assert picture.title == "attribution of resid_out_1, example 4, position 2: -1"


def test_in_the_order_of_the_model():
    """The same parts may stand as the model adds them."""
    picture = attribution(found(1.0, -3.0, 0.5, 0.25), top=2, order="layer")
    assert names(picture) == ["embed", "attn_out_0", "2 smaller parts", "remainder"]


def test_bars_say_by_colour_what_they_do():
    """What adds, what takes away and what no part explains have three colours."""
    colours = [
        bar.get_facecolor()
        for bar in attribution(found(2.0, -1.0, 1.0, -3.0, total=0.0)).figure.axes[0].patches
    ]
    assert colours[0] == colours[2] != colours[1] == colours[3]
    assert colours[4] not in colours[:4]


def test_of_a_cache_it_is_what_the_cache_says():
    """Asked of a cache it draws what `cache.attribute` gives, with its options."""
    embed, added = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    cache = corpus({"embed": embed, "mlp_out_0": added, "resid_out_0": embed + added}, (3,))
    direction = torch.arange(4.0)
    picture = attribution(cache, 0, -1, direction, scale=2, order="layer")
    expected = cache.attribute(0, -1, direction, scale=2)
    assert names(picture) == list(expected.names)
    np.testing.assert_allclose(picture.values["attribution"], expected.values, atol=1e-12)


def test_infinities_and_nan_are_told_not_drawn(tmp_path):
    """Their bars have no length and their labels say what they are."""
    picture = attribution(found(1.0, float("inf"), float("nan"), 2.0))
    assert names(picture)[:4] == ["attn_out_0", "attn_out_1", "embed", "mlp_out_0"]
    assert [text.get_text() for text in picture.figure.axes[0].texts][:2] == ["inf", "2"]
    picture.save(tmp_path / "odd.png")


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: attribution(found(1, 2, 3, 4), 4), "attribution of example 4 already"),
        (lambda: attribution(found(1, 2, 3, 4), top=0), "top=0"),
        (lambda: attribution(found(1, 2, 3, 4), order="name"), "'size' or 'layer'"),
        (lambda: attribution(corpus({"a": torch.ones(1, 2)}, (1,)), 0, 0), "say which example"),
    ],
)
def test_what_cannot_be_drawn_says_what_can(ask, said):
    """A question that is not whole is refused with what is missing."""
    with pytest.raises(QueryError, match=said):
        ask()
