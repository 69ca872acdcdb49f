"""Histograms as pictures: what is counted, what is marked, and what lies far outside."""

import numpy as np
import pytest
import torch
from top_helpers import corpus

from lazycache.errors import QueryError
from lazycache.pictures import histogram

LENGTHS = (900, 1100)


@pytest.fixture(scope="module")
def values():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[7, 1], x[1500, 1] = 5000.0, -300.0
    x[:, 2] = torch.nan
    return x


@pytest.fixture(scope="module")
def cache(values):
    return corpus({"resid_out_0": values}, LENGTHS)


def test_bars_are_counts_and_marks_are_quantiles(cache, values):
    """Counts, edges and quantiles of a unit are those of numpy."""
    picture = histogram(cache, "resid_out_0", 0, bins=30, quantiles=(0.1, 0.9))
    counts, edges = np.histogram(values[:, 0].numpy(), 30)
    np.testing.assert_array_equal(picture.values["counts"], counts)
    np.testing.assert_allclose(picture.values["edges"], edges)
    marks = np.quantile(values[:, 0].numpy(), [0.1, 0.9])
    np.testing.assert_allclose(picture.values["quantiles"], marks)
    lines = [float(line.get_xdata()[0]) for line in picture.figure.axes[0].lines]
    np.testing.assert_allclose(lines, marks)
    assert picture.title == "resid_out_0 unit 0, 2,000 values"


def test_values_far_from_all_others_are_told_not_drawn(cache, values):
    """Two values a thousand times as large do not take the bars away; the picture says of them."""
    picture = histogram(cache, "resid_out_0", 1)
    assert picture.values["outside"].sum() == 2000 - picture.values["counts"].sum()
    assert np.abs(picture.values["edges"]).max() < 10
    said = picture.figure.axes[0].get_xlabel()
    assert "below, to -300" in said
    assert "above, to 5,000" in said
    whole = histogram(cache, "resid_out_0", 1, bins=4, limits=(-300, 5000))
    assert whole.values["counts"].tolist() == [1999, 0, 0, 1]


def test_chosen_rows_and_logarithms(cache, values):
    """A condition chooses rows; counts may be drawn as logarithms, the numbers stay."""
    picture = histogram(cache, "resid_out_0", 0, bins=5, where="example = 1", log=True)
    counts, _ = np.histogram(values[900:, 0].numpy(), 5)
    np.testing.assert_array_equal(picture.values["counts"], counts)
    assert picture.figure.axes[0].get_yscale() == "log"


def test_what_is_not_finite_is_counted_apart(cache):
    """NaN of some units is told in the picture of all; of nothing but NaN there is none."""
    picture = histogram(cache, "resid_out_0")
    assert picture.values["not_finite"].tolist() == [2000]
    assert "2,000 not finite" in picture.figure.axes[0].get_xlabel()
    with pytest.raises(QueryError, match="no finite value"):
        histogram(cache, "resid_out_0", 2)
