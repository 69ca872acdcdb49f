"""Means of groups, beside numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import lazycache as lc
from lazycache.errors import QueryError
from lazycache.samples import small_cache


@pytest.mark.parametrize("where", [None, "position < 2"])
def test_group_means_are_numpys(tmp_path: Path, where: str | None) -> None:
    """Of each label, NULL last, the mean of its rows in float64."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(16, 5))
    labels = ["b", "a", None, "a"]
    items = [{"input_ids": [i, 3, 5 + i], "label": one} for i, one in enumerate(labels)]
    lc.extract(model, items, str(tmp_path), "0", progress=False)
    cache = lc.open(str(tmp_path))
    found = cache.group_mean("0:out", "label", where=where)
    x = cache["0:out"] if where is None else cache["0:out"].where(where)
    rows, of = x.rows.load().double().numpy(), np.repeat(np.arange(4), x.lengths)
    assert found.keys == ("a", "b", None)
    for key, members in zip(found.keys, ([1, 3], [0], [2]), strict=True):
        np.testing.assert_allclose(
            found[key].numpy(), rows[np.isin(of, members)].mean(0), rtol=1e-15
        )


def test_group_means_let_nan_and_infinity_through() -> None:
    """As in torch: of a group that has one, and of that group alone."""
    cache = small_cache()
    x = cache["resid_out_0"]
    odd = x.map(lambda v: torch.where(v == 2, torch.nan, torch.where(v == 5, torch.inf, v)))
    found = cache.group_mean(odd, "example")
    assert found.values.isnan().tolist() == [[True, False], [False, False], [False, False]]
    assert found.values.isinf().tolist() == [[False, False], [False, True], [False, False]]


def test_group_mean_by_what_is_no_column_is_refused() -> None:
    """A typo names the nearest column; an array is none."""
    with pytest.raises(QueryError, match="position"):
        small_cache().group_mean("resid_out_0", "positon")
    with pytest.raises(QueryError, match="expression of SQL"):
        small_cache().group_mean("resid_out_0", [0, 1])  # type: ignore[arg-type]
