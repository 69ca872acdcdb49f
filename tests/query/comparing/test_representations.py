"""`similarity` against plain numpy in float64, over rows that are paired as they are stored."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_helpers import make

from lazycache.errors import MemoryBudgetError, QueryError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.query.comparing.representations import similarity

METRICS = ("cka", "svcca", "procrustes")
CACHE = ActivationCache()


def reference(a, b, metric, variance=0.99):
    """Return what the papers say, of whole matrices in memory."""
    a, b = (np.asarray(x.double()) for x in (a, b))
    kept = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    a, b = (x[kept] - x[kept].mean(axis=0) for x in (a, b))
    if metric == "cka":
        return np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    if metric == "procrustes":
        nuclear = np.linalg.svd(a.T @ b, compute_uv=False).sum()
        return nuclear / np.linalg.norm(a) / np.linalg.norm(b)
    bases = []
    for x in (a, b):
        u, s, _ = np.linalg.svd(x, full_matrices=False)
        share = np.cumsum(s**2) / np.sum(s**2)
        count = int(np.searchsorted(share, variance * (1 - 1e-12))) + 1
        bases.append(u[:, : min(count, int((s > 1e-7 * s[0]).sum()))])
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    mean=st.sampled_from([0.0, 3.0, 1e4]),
    rank=st.sampled_from([2, 5, 9]),
    variance=st.sampled_from([0.5, 0.99]),
    odd=st.booleans(),
)
def test_as_numpy_has_it(seed, metric, dtype, mean, rank, variance, odd):
    """Over many small blocks, with large means, few directions, and values that are not finite."""
    g = torch.Generator().manual_seed(seed)
    # a large mean leaves nothing of the rest in bfloat16
    mean = mean if dtype == torch.float64 else min(mean, 3.0)
    hidden = torch.randn(300, rank, generator=g)
    a = (hidden @ torch.randn(rank, 9, generator=g) + mean).to(dtype)
    b = (hidden @ torch.randn(rank, 6, generator=g) + torch.randn(300, 6, generator=g)).to(dtype)
    if odd:
        a[3, 2], a[200], b[7, 1] = torch.nan, torch.inf, -torch.inf
        a[:70] = torch.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazycache.query.comparing.representations.BLOCK_BYTES", 8 * 15 * 37)
        found = similarity(CACHE, a, b, metric, variance=variance)
    expected = reference(a, b, metric, variance)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_turned_and_scaled_is_the_same(metric):
    """One site turned, scaled and moved is the same representation: 1, also with few rows."""
    g = torch.Generator().manual_seed(1)
    a = torch.randn(40, 8, generator=g, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=g, dtype=torch.float64))[0]
    assert similarity(CACHE, a, 3e5 * a @ turn - 7, metric) == pytest.approx(1, abs=1e-9)
    assert similarity(CACHE, a[:2], a[:2] @ turn, metric) == pytest.approx(1, abs=1e-9)
    noise = torch.randn(4000, 8, generator=g)
    assert similarity(CACHE, noise, torch.randn(4000, 8, generator=g), metric) < 0.1


def test_constant_units_and_sizes_of_values():
    """Units that are constant count for nothing; neither do units of measurement."""
    g = torch.Generator().manual_seed(2)
    a, b = torch.randn(90, 4, generator=g).double(), torch.randn(90, 3, generator=g).double()
    wide = torch.cat([a, torch.full((90, 2), 1e5)], dim=1)
    for metric in METRICS:
        plain = similarity(CACHE, a, b, metric)
        assert similarity(CACHE, wide, b, metric) == pytest.approx(plain, rel=1e-9)
        assert similarity(CACHE, 1e100 * a, 1e-100 * b, metric) == pytest.approx(plain, rel=1e-9)


LENGTHS = (3, 0, 4, 2)


@pytest.fixture(scope="module")
def made():
    """A dataset of a few examples in small shards."""
    return make(LENGTHS, seed=4)


def test_rows_are_paired_as_they_are_stored(made):
    """Sites of a dataset, of the same one opened again, and what is in memory; with a condition."""
    cache, again = made.shared, made.open()
    x = cache["x"].rows.load()
    y = cache["x"].map(lambda rows: rows**2 - rows)
    expected = reference(x, x**2 - x, "cka")
    assert cache.similarity("x", y) == pytest.approx(expected)
    other = again["x"].map(lambda rows: rows**2 - rows)
    assert cache.similarity("x", other) == pytest.approx(expected)
    assert cache.similarity(x, other.rows.load()) == pytest.approx(expected)
    # backwards in both is the same rows
    assert cache.similarity(cache["x"].rows[::-1], other.rows[::-1]) == pytest.approx(expected)
    part = cache["x"].where("position > 0").rows.load()
    found = cache.similarity("x", other, where="position > ?", params=[0])
    assert found == pytest.approx(reference(part, part**2 - part, "cka"))
    again.close()


def test_other_rows_are_refused(made):
    """Rows of other positions, in another order, or of another number: says how they differ."""
    cache, again = made.shared, made.open()
    x = cache["x"]
    rows = x.rows
    for other in (rows, again["x"].rows):
        with pytest.raises(QueryError, match=r"example \d+, position \d+ in the one stands where"):
            cache.similarity(rows, other[::-1])
        with pytest.raises(QueryError, match="9 rows and 8"):
            cache.similarity(rows, other[1:])
    with pytest.raises(QueryError, match=r"position 0 in the one .* position 1"):
        cache.similarity(x[[0, 2, 3], 0], again["x"][[0, 2, 3], 1])
    again.close()


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "says"),
    [
        (torch.ones(5, 2), torch.rand(5, 2), {}, QueryError, "all its rows are alike"),
        (torch.rand(1, 2), torch.rand(1, 2), {}, QueryError, "there are 1 rows"),
        (torch.full((5, 2), torch.nan), torch.rand(5, 2), {}, QueryError, "there are 0 rows"),
        (torch.rand(5, 2), torch.rand(4, 2), {}, QueryError, "5 rows and 4"),
        (torch.rand(5, 2), torch.rand(5, 2), {"metric": "rsa"}, QueryError, "'svcca'"),
        (torch.rand(5, 2), torch.rand(5, 2), {"variance": 0}, QueryError, "variance=0"),
        (torch.rand(2, 30000), torch.rand(2, 2), {}, MemoryBudgetError, "fewer units"),
        (torch.rand(5, 2).double() * 1e300, torch.rand(5, 2), {}, QueryError, "too large"),
    ],
    ids=["constant", "one-row", "nan", "rows", "metric", "variance", "wide", "huge"],
)
def test_errors(a, b, options, error, says):
    """What has no answer says why."""
    with pytest.raises(error, match=says):
        similarity(CACHE, a, b, **options)
