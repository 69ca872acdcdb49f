"""Norms by layer and position, drawn: exact, of any dataset."""

import numpy as np
import pytest
import torch
from top_helpers import corpus

import lazycache as lc
from lazycache.errors import QueryError
from lazycache.pictures import norms

LENGTHS = (3, 5, 2)


@pytest.fixture(scope="module")
def sites():
    made = torch.Generator().manual_seed(0)
    return {f"resid_out_{i}": (i + 1) * torch.randn(10, 4, generator=made) for i in (0, 2, 10)}


@pytest.fixture(scope="module")
def cache(sites):
    pooled = torch.arange(6.0).reshape(3, 2)
    return corpus(sites, LENGTHS, pooled={"pooled_0": pooled, "number": torch.arange(3.0)})


def test_means_and_quantiles_are_those_of_all_rows(cache, sites):
    """By position the mean over the examples that reach it, by layer quantiles over all rows."""
    picture = norms(cache)
    position = np.concatenate([np.arange(n) for n in LENGTHS])
    each = np.stack([x.double().norm(dim=1).numpy() for x in sites.values()])
    mean = [[row[position == p].mean() for p in range(5)] for row in each]
    np.testing.assert_allclose(picture.values["mean"], mean)
    quantiles = np.quantile(each, [0.05, 0.5, 0.95], axis=1).T
    np.testing.assert_allclose(picture.values["quantiles"], quantiles)
    np.testing.assert_allclose(picture.values["means"], each.mean(1))
    axes = picture.figure.axes[0]
    assert [one.get_text() for one in axes.get_yticklabels()] == ["0", "2", "10"]
    assert axes.get_ylabel() == "resid_out, layer"
    assert picture.title == "norm of resid_out_0 to resid_out_10, 10 rows"


def test_only_some_positions_and_rows(cache, sites):
    """Positions and rows may be chosen; a position without a row is left empty."""
    picture = norms(cache, "resid_out_2", positions=2, where="position > 0")
    each = sites["resid_out_2"].double().norm(dim=1).numpy()
    np.testing.assert_allclose(picture.values["mean"], [[np.nan, each[[1, 4, 9]].mean()]])
    assert picture.title == "norm of resid_out_2, 3 rows"


def test_what_has_no_positions_has_layers_only(cache):
    """Rows of examples, and tensors in memory, are drawn by layer alone."""
    in_memory = lc.ActivationCache({"a": torch.tensor([[3.0, 4.0], [0.0, 1.0]])})
    for picture, mean in ((norms(cache, "pooled_0"), 3.67), (norms(in_memory, "a"), 3.0)):
        assert picture.values["mean"].shape == (1, 0)
        assert picture.values["means"].round(2).tolist() == [mean]
        assert len(picture.figure.axes) == 1


def test_norms_that_are_not_finite_are_left_out_and_told():
    """An infinity takes its row away, not the whole picture."""
    x = torch.tensor([[3.0, 4.0], [torch.inf, 1.0], [0.0, 1.0]])
    picture = norms(corpus({"resid_out_0": x}, (3,)))
    np.testing.assert_allclose(picture.values["mean"], [[5.0, np.nan, 1.0]])
    assert picture.title == "norm of resid_out_0, 2 rows (1 not finite)"


def test_what_has_no_norm_says_so(cache):
    """One number for each row has no norm, and no rows have none either."""
    with pytest.raises(QueryError, match="'number' has one number for each row"):
        norms(cache, "number")
    with pytest.raises(QueryError, match="norms of resid_out_0: no rows with finite values"):
        norms(cache, where="position > 99")
