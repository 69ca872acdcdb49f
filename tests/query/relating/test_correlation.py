"""Pearson's r of every unit at once, beside numpy's of each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from cache_helpers import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_helpers import known

from lazycache.cache.aggregates.comoments import comoments
from lazycache.errors import QueryError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.samples import small_cache
from lazycache.storage.open_store import open_store


def _reference(x: torch.Tensor, y: np.ndarray) -> np.ndarray:
    """Return numpy's r of each column over its finite rows; nan where a side is constant."""
    found = []
    for unit in x.double().numpy().reshape(len(x), -1).T:
        kept = np.isfinite(unit) & np.isfinite(y)
        a, b = unit[kept], y[kept]
        constant = not len(a) or (a == a[0]).all() or (b == b[0]).all()
        found.append(np.nan if constant else np.corrcoef(a, b)[0, 1])
    return np.array(found).reshape(x.shape[1:])


def _equal(found: torch.Tensor, x: torch.Tensor, y: np.ndarray, *, atol: float = 1e-12) -> None:
    np.testing.assert_allclose(found.numpy(), _reference(x, y), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int16])
def test_every_unit_has_numpys_r(dtype: torch.dtype) -> None:
    """Of noise, large means, constants, NaN and infinities, over several blocks of rows."""
    torch.manual_seed(0)
    x = torch.randn(4_000, 2, 300, dtype=torch.float64) * 50
    y = torch.randn(4_000, dtype=torch.float64).numpy()
    x[:, 0, 0] += torch.from_numpy(y) * 100
    x[:, 0, 1] += 1e4
    x[:, 0, 2] = 0.1
    x[:, 0, 3] = x[:, 0, 3].where(torch.arange(4_000) % 2 == 0, -3.0)
    x = x.to(dtype)
    if dtype.is_floating_point:
        x[5, 1, 0], x[3_600:, 1, 1], x[:, 1, 2] = torch.nan, torch.inf, torch.nan
        x[1:, 1, 3] = -torch.inf
        x[:, 1, 4] = torch.where(torch.arange(4_000) % 3 == 0, torch.nan, 0.7)
    y[17], y[18] = np.nan, np.inf
    found = ActivationCache().correlate(x, y)
    assert found.dtype == torch.float64
    _equal(found, x, y, atol=1e-10)


def test_a_large_mean_costs_no_digits() -> None:
    """Deviations of one in a hundred million give the r of the deviations."""
    torch.manual_seed(1)
    near = torch.randn(5_000, 3, dtype=torch.float64)
    y = (near[:, 0] + torch.randn(5_000, dtype=torch.float64)).numpy()
    _equal(ActivationCache().correlate(near + 1e8, y + 1e9), near, y, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, 39), max_size=4),
    odd=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2)), max_size=60),
)
def test_parts_merge_to_the_whole(seed: int, cuts: list[int], odd: list[tuple[int, int]]) -> None:
    """However rows are cut, and whatever is left of a part, merged parts have the whole's r."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) + 100
    y = torch.randn(40, generator=generator, dtype=torch.float64)
    for row, unit in odd:
        x[row, unit] = torch.nan if row % 2 else torch.inf
    edges = [0, *sorted(set(cuts)), 40]
    parts = [comoments(x[a:b], y[a:b]) for a, b in pairwise(edges)]
    total = parts[0]
    for part in parts[1:]:
        total = total.merged(part)
    _equal(total.pearson(float(y.abs().max())), x, y.numpy(), atol=1e-10)


def test_values_are_left_as_they_were() -> None:
    """A tensor in memory is read and not written to."""
    x = torch.arange(12, dtype=torch.float64).reshape(4, 3)
    kept = x.clone()
    ActivationCache().correlate(x, torch.arange(4.0))
    assert torch.equal(x, kept)


def test_columns_expressions_and_conditions() -> None:
    """Numbers come from the tables; rows without one are left out, as those of `where` are."""
    cache = small_cache()
    x = cache["resid_out_0"].rows.load()
    position, example = np.array([0, 1, 0, 1, 2, 0.0]), np.array([0, 0, 1, 1, 1, 2.0])
    _equal(cache.correlate("resid_out_0", "position"), x, position)
    _equal(cache.correlate("resid_out_0", "position > 0"), x, (position > 0).astype(float))
    _equal(
        cache.correlate("resid_out_0", "nullif(example, 1)"),
        x,
        np.where(example == 1, np.nan, example),
    )
    chosen = example > 0
    _equal(
        cache.correlate("resid_out_0", "position", where="example > $e", params={"e": 0}),
        x[chosen],
        position[chosen],
    )
    _equal(cache.correlate("resid_out_0", cache["resid_out_0"][..., 1]), x, x[:, 1].numpy())
    _equal(cache.correlate("resid_out_0", "unit(resid_out_0, 0) ** 2"), x, x[:, 0].numpy() ** 2)


def test_top_units_are_the_strongest_first() -> None:
    """By |r|, of equal ones the lower unit; a constant unit is none."""
    y = torch.arange(5.0)
    x = torch.stack([torch.ones(5), y, -y, torch.tensor([0, 1, 0, 1, 0.0])], dim=1)
    found = ActivationCache().correlate(x.reshape(5, 2, 2), y, top=9)
    assert [unit for unit, _ in found] == [(0, 1), (1, 0), (1, 1)]
    assert [round(r, 9) for _, r in found] == [1, -1, 0]


def test_scattered_rows_of_shards(tmp_path) -> None:
    """Rows of a dataset that a column leaves out are not read."""
    torch.manual_seed(2)
    x = torch.randn(50, 4).bfloat16()
    dataset = Dataset(open_store(str(tmp_path), create=True, storage_options=None))
    dataset.commit([(0, 50)], {"a": x})
    cache = dataset.cache()
    y = torch.randn(50).double().numpy()
    y[::3] = np.nan
    _equal(cache.correlate("a", y), x, y)
    assert cache.io.rows == np.isfinite(y).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int16])
def test_stored_spreads_give_the_same_r(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where statistics are stored, the spread of units is theirs; NaN and holes go the long way."""
    monkeypatch.setattr("lazycache.query.relating.correlation.TILE_VALUES", 5 * 7)
    torch.manual_seed(3)
    x = (torch.randn(40, 5) * 30 + 1000).to(dtype)
    x[:, 2] = 7
    y = torch.randn(40, dtype=torch.float64).numpy()
    cache, _ = known(x, [10, 30], url="memory://spread")
    _equal(cache.correlate("s", y), x, y)
    assert cache.io.statistics_bytes > 0
    constant = np.full(40, 0.1)
    assert cache.correlate("s", constant).isnan().all()
    y[3] = np.nan
    _equal(cache.correlate("s", y), x, y)
    if dtype.is_floating_point:
        x[7, 1], y[3] = torch.inf, 1.0
        odd, _ = known(x, [10, 30], url="memory://spread-odd")
        _equal(odd.correlate("s", y), x, y)


def test_nothing_to_correlate_is_nan() -> None:
    """No rows, one row, or a constant column: nan for every unit."""
    x = torch.randn(3, 2)
    for y in ([np.nan] * 3, [1.0, np.nan, np.nan], [4.0] * 3):
        assert ActivationCache().correlate(x, y).isnan().all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("'a' || position", "0 or 1"),
        ("[position]", "number"),
        ([1.0, 2.0], "6 rows"),
        (np.zeros((6, 2)), "one number"),
        ("positon", "position"),
    ],
    ids=["text", "list", "short", "matrix", "typo"],
)
def test_what_is_no_number_is_refused(column, message: str) -> None:
    """Errors say what is needed: a number for each row."""
    with pytest.raises(QueryError, match=message):
        small_cache().correlate("resid_out_0", column)
