"""How alike layers are, drawn: a sample of rows, or all of them."""

import numpy as np
import pytest
import torch
from top_helpers import corpus

from lazycache.errors import MemoryBudgetError, QueryError, SiteNotFoundError
from lazycache.pictures import representations, similarity

NAMES = ["resid_out_0", "resid_out_1", "resid_out_2"]


@pytest.fixture(scope="module")
def sites():
    made = torch.Generator().manual_seed(0)
    x = torch.randn(600, 6, generator=made)
    noise = torch.randn(600, 6, generator=made)
    # one far from the origin and large, one of another width
    return dict(zip(NAMES, (x, 1e4 * (x + noise) + 1e5, x[:, :4].contiguous()), strict=True))


@pytest.fixture(scope="module")
def cache(sites):
    return corpus(sites, (250, 350))


def test_all_rows_give_what_the_cache_says_of_each_two(cache):
    """Without a sample each number is that of `cache.similarity`; so are those of as many rows."""
    exact = [[cache.similarity(a, b) for b in NAMES] for a in NAMES]
    for rows in (None, 600, 10_000):
        picture = similarity(cache, rows=rows)
        np.testing.assert_allclose(picture.values["similarity"], exact, atol=1e-6)
    assert picture.title == "linear CKA of 3 sites, 600 rows"


@pytest.mark.parametrize("metric", ["cka", "svcca"])
def test_a_sample_is_the_same_rows_of_all_sites(cache, sites, metric):
    """The numbers are those of the rows that `sample` draws, and the title says how many."""
    picture = similarity(cache, metric=metric, rows=300, seed=3)
    drawn = [cache[name].sample(300, seed=3).load() for name in NAMES]
    expected = [[cache.similarity(a, b, metric) for b in drawn] for a in drawn]
    np.testing.assert_allclose(picture.values["similarity"], expected, atol=1e-6)
    assert picture.title.endswith("of 3 sites, 300 of 600 rows")


def test_the_matrix_is_written_and_labelled(cache):
    """Few sites have their numbers in their places, and layers along both axes."""
    axes = similarity(cache, rows=100).figure.axes[0]
    assert len(axes.texts) == 9
    assert [one.get_text() for one in axes.get_xticklabels()] == ["0", "1", "2"]
    assert axes.get_xlabel() == axes.get_ylabel() == "resid_out, layer"


def test_what_cannot_be_compared_says_why(cache, monkeypatch):
    """No spread, no such site, too few rows and too much memory are told in a sentence."""
    flat = corpus({"resid_out_0": torch.ones(5, 2), "resid_out_1": torch.rand(5, 2)}, (5,))
    with pytest.raises(QueryError, match="resid_out_0 has no spread"):
        similarity(flat)
    with pytest.raises(QueryError, match="1 rows with finite values; two at least"):
        similarity(cache, rows=1)
    with pytest.raises(SiteNotFoundError, match="resid_out_0"):
        similarity(cache, "resid_ot_*")
    monkeypatch.setattr(representations, "MOST_BYTES", 100)
    with pytest.raises(MemoryBudgetError, match="take fewer, rows=150"):
        similarity(cache)
