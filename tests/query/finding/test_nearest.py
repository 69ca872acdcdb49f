"""`similar` against a plain reference in float64: the same rows in the same order."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_helpers import make
from statistics_helpers import known

from lazycache.errors import QueryError, SelectionError, SiteNotFoundError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.query.finding.nearest import nearest, similar
from lazycache.query.finding.row_norms import RowNorms
from lazycache.query.finding.score_bounds import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    adds_bfloat16,
    close_arithmetic,
)

METRICS = ("cosine", "l2", "dot")
CACHE = ActivationCache()


def scores(x, q, metric):
    """Return what each row is worth, more is better; nan for what cannot be a hit."""
    x, q = x.double().flatten(1), q.double().flatten()
    if metric == "l2":
        return -(x - q).norm(dim=1)
    dot = (x * q).sum(dim=1)
    if metric == "dot":
        return dot
    norms = x.norm(dim=1) * q.norm()
    return torch.where(norms == 0, 0.0, dot / torch.where(norms == 0, 1.0, norms))


def check(x, q, k, metric, hits, rows=None):
    """Compare hits with the reference: values, and rows but for what rounding tells apart."""
    worth = scores(x, q, metric).numpy()
    rows = np.arange(len(x)) if rows is None else rows
    there = ~np.isnan(worth)
    order = np.lexsort((rows[there], -worth[there]))[:k]
    best, expected = worth[there][order], rows[there][order]
    sign = -1 if metric == "l2" else 1
    np.testing.assert_allclose(sign * hits.values.numpy(), best, rtol=1e-12, atol=1e-12)
    clear = np.ones(len(best), dtype=bool)
    with np.errstate(invalid="ignore"):
        near = np.isclose(best[1:], best[:-1], rtol=1e-12, atol=1e-12) & (best[1:] != best[:-1])
    clear[1:] &= ~near
    clear[:-1] &= ~near
    assert hits.rows[clear].tolist() == expected[clear].tolist()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 30),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    metric=st.sampled_from(METRICS),
    k=st.sampled_from([1, 3, 20, 5000]),
    shift=st.sampled_from([0.0, 1.0, 30.0]),
    scale=st.sampled_from([1.0, 1e-3, 1e-22, 1e18]),
    odd=st.booleans(),
)
def test_hits_are_those_of_float64(seed, dtype, metric, k, shift, scale, odd):
    """Whatever the dtype, the size and the likeness of the rows, NaN, Inf, zeros and ties in."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, 64, generator=g)
    x = ((x + shift * torch.randn(64, generator=g)) * (1 if dtype == torch.float16 else scale)).to(
        dtype
    )
    x[1000:1100] = x[7]
    x[1200:1210] = 0
    if odd:
        x[3], x[4, 5], x[5], x[6, ::2] = torch.nan, torch.nan, torch.inf, -torch.inf
    q = torch.stack([x[7].float(), x[2000].float() * 1.01, torch.zeros(64), x[1].float() - x[2]])
    found = similar(CACHE, x, q, k, metric)
    for one, hits in zip(q, found, strict=True):
        check(x, one, k, metric, hits)


@pytest.mark.parametrize("metric", METRICS)
def test_bars_hold_over_blocks_and_tiles(metric, monkeypatch):
    """Small blocks, tiles and a few threads give what one block gives, ties included."""
    monkeypatch.setattr("lazycache.query.finding.nearest.BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr("lazycache.query.finding.nearest.TILE", 4)
    monkeypatch.setattr("lazycache.query.finding.nearest.threads", lambda _: 3)
    x = torch.randint(-2, 3, (4000, 64), generator=torch.Generator().manual_seed(1)).bfloat16()
    x[::3] = x[0]
    # in the opposite order: rows that come later are lower
    cache = ActivationCache({"x": x})
    backwards = similar(cache, similar_order(cache, x), x[:9].float(), 30, metric)
    for one, hits in zip(x[:9], backwards, strict=True):
        check(x, one, 30, metric, hits)


def similar_order(cache, x):
    """Return the rows of a tensor from the last to the first, lazy."""
    from lazycache.query.asked import tensor_of

    return tensor_of(cache, x).rows[::-1]


@pytest.mark.parametrize("arithmetic", [BFLOAT16, FLOAT32, FLOAT64], ids=["bf16", "f32", "f64"])
@pytest.mark.parametrize("metric", METRICS)
def test_bounds_hold(arithmetic, metric):
    """No row that reaches the bar is left out, and k rows do reach what is said to be reached."""
    from lazycache.query.finding.query_tile import QueryTile

    if arithmetic is BFLOAT16 and not adds_bfloat16(256):
        pytest.skip("torch does not add products of bfloat16 in float32 on this machine")
    g = torch.Generator().manual_seed(2)
    x = (torch.randn(2000, 256, generator=g) + 2 * torch.randn(256, generator=g)).bfloat16()
    q = torch.cat([x[:2].double(), torch.randn(4, 256, generator=g).double()])
    tile = QueryTile(q, metric)
    products = arithmetic.products(x.to(arithmetic.dtype), tile.vectors(arithmetic))
    true = torch.stack([scores(x, one, metric) for one in q], dim=1)
    for k in (1, 10, 300):
        bars = tile.bars(true.sort(dim=0, descending=True).values[k - 1])
        there = products.may_reach(tile, bars, later=False)
        best = true >= true.sort(dim=0, descending=True).values[k - 1]
        assert there[best].all()
        assert (products.reached(tile, k) <= bars + 1e-9 * bars.abs()).all()
    assert not there.all()


def test_a_less_exact_float32_is_noticed():
    """Who lets torch multiply float32 in bfloat16 gets the same hits, from float64."""
    x = torch.randn(2000, 96, generator=torch.Generator().manual_seed(3)) + 5
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        hits = similar(CACHE, x, x[5], 10)
    finally:
        torch.set_float32_matmul_precision(before)
    check(x, x[5], 10, "cosine", hits)
    assert close_arithmetic(96) is FLOAT32


LENGTHS = (3, 0, 4, 2)


@pytest.fixture(scope="module")
def made():
    """A dataset of a few examples in small shards."""
    return make(LENGTHS, seed=4)


@pytest.mark.parametrize("metric", METRICS)
def test_conditions_and_selections(made, metric):
    """Only rows that a condition or a selection keeps are hits, by their numbers in the table."""
    cache = made.shared
    x = cache["x"]
    rows = np.asarray(x.rows.lead.flat())
    values = x.rows.load()
    kept = cache["x"].where("position > 0").rows
    numbers = np.asarray(kept.lead.flat())
    hits = cache.similar("x", values[1], 4, metric, where="position > ?", params=[0])
    check(kept.load(), values[1], 4, metric, hits, rows=numbers)
    assert set(hits.rows.tolist()) <= set(numbers.tolist())
    hits = cache.similar(x[:, -1:], values[1], 4, metric)
    last = np.asarray(x[:, -1:].lead.flat())
    check(x[:, -1:].rows.load(), values[1], 4, metric, hits, rows=np.sort(last))
    assert len(rows) == len(values)


def of_site(x, q, k, metric="cosine"):
    """Return what check takes, of a site without tables of tokens."""
    values, rows = nearest(x, q[None].double(), k, metric).of(0)
    sign = -1 if metric == "l2" else 1
    return SimpleNamespace(values=torch.from_numpy(sign * values), rows=rows)


@pytest.mark.parametrize("most", [1 << 24, 900], ids=["all", "some"])
def test_kept_lengths_change_nothing(monkeypatch, most):
    """The second question, other units and other rows have the hits of the first one, exact."""
    monkeypatch.setattr("lazycache.query.finding.row_norms.MOST_ROWS", most)
    monkeypatch.setattr("lazycache.query.finding.nearest.BLOCK_BYTES", 1 << 15)
    x = torch.randn(1200, 96, generator=torch.Generator().manual_seed(8))
    x = (x + torch.arange(1200)[:, None] % 7).bfloat16()
    x[40:60], x[90], x[91, 3], x[92] = 0, torch.nan, torch.inf, x[5]
    _, site = known(x, [500, 700], url=f"memory://lengths-{most}")
    q = x[5].float()
    for metric in METRICS:
        for _ in range(2):
            check(x, q, 30, metric, of_site(site, q, 30, metric))
            part = of_site(site[..., :64], q[:64], 30, metric)
            check(x[:, :64], q[:64], 30, metric, part)
    last = of_site(site.rows[600:], q, 9)
    check(x[600:], q, 9, "cosine", last, rows=np.arange(600, 1200))


def test_a_length_that_is_nan_hides_none_that_is_not_known():
    """Beside a NaN, what was not worked out yet is not taken for a row of zeros."""
    norms = RowNorms(3)
    norms.keep(np.array([0, 2]), torch.tensor([torch.nan, 0.0]))
    assert norms.of(range(3)) is None
    norms.keep(np.array([1]), torch.tensor([2.0]))
    assert norms.of(range(3)).tolist()[1:] == [2.0, 0.0]


def test_kept_lengths_are_used_and_bounded(monkeypatch):
    """They are worked out once, and again of a site that was not asked for long."""
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(9)).bfloat16()
    asked = []
    of_torch = torch.linalg.vector_norm
    monkeypatch.setattr(
        "lazycache.query.finding.score_bounds.torch.linalg.vector_norm",
        lambda rows, **options: asked.append(len(rows)) or of_torch(rows, **options),
    )
    _, site = known(x, [300], url="memory://lengths-once")

    def is_new(y, q):
        asked.clear()
        of_site(y, q, 3)
        return 300 in asked

    few = site[..., :60]
    assert [is_new(site, x[0]), is_new(site, x[1]), is_new(few, x[0, :60])] == [True, False, True]
    monkeypatch.setattr("lazycache.query.finding.row_norms.MOST_ROWS", 400)
    less = site[..., :50]
    assert [is_new(less, x[0, :50]), is_new(less, x[1, :50]), is_new(site, x[0])] == [
        True,
        False,
        True,
    ]


def test_lengths_of_tensors_in_memory_are_not_kept():
    """What was changed between two questions counts as it is."""
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(11))
    second = int(similar(CACHE, x, x[0], 3).rows[1])
    x[second] *= 1e-3
    check(x, x[0], 3, "l2", similar(CACHE, x, x[0], 3, "l2"))
    x[second] = 0
    assert second not in similar(CACHE, x, x[0], 3).rows


@pytest.mark.parametrize("largest", [True, False], ids=["largest", "smallest"])
def test_directions_of_bfloat16_are_those_of_float64(largest):
    """`top_k(direction=)` by bounds: ties, NaN and infinities as when all rows are worked out."""
    g = torch.Generator().manual_seed(10)
    x = (torch.randn(3000, 64, generator=g) + torch.randn(64, generator=g)).bfloat16()
    x[9:12], x[20, 1], x[21], x[22, 3] = x[7], torch.nan, torch.inf, -torch.inf
    direction = torch.randn(64, generator=g)
    direction[0] = 0
    worth = (x.double() * direction.double()).sum(1).numpy() * (1 if largest else -1)
    there = np.flatnonzero(~np.isnan(worth))
    order = there[np.lexsort((there, -worth[there]))][:40]
    hits = CACHE.top_k(x, direction=direction, k=40, largest=largest)
    assert hits.rows.tolist() == order.tolist()
    expected = torch.from_numpy(worth[order] * (1 if largest else -1)).float()
    assert hits.values.dtype == torch.float32
    torch.testing.assert_close(hits.values, expected)
    assert len(CACHE.top_k(x, direction=direction, k=3000, largest=largest)) == len(there)


def test_vectors_are_taken_from_anywhere():
    """A row of a lazy tensor, an array, a list, rows of one, a list of tensors: the same vector."""
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(5))
    cache = ActivationCache({"x": x})
    lazy = similar_order(cache, x)[::-1]
    expected = similar(cache, x, x[2], 3).rows.tolist()
    for to in (x[2], x[2].numpy(), x[2].tolist(), x[2].flatten(), lazy[2]):
        assert similar(cache, x, to, 3).rows.tolist() == expected
    for to in (
        x[2:3],
        lazy[2:3],
        [x[2]],
        [lazy[2]],
        x[2].reshape(1, 30),
    ):
        (hits,) = similar(cache, x, to, 3)
        assert hits.rows.tolist() == expected
    assert similar(cache, x, x[:0], 3) == []
    assert similar(cache, x[:0], x[0], 3).rows.tolist() == []


@pytest.mark.parametrize(
    ("units", "index"),
    [([1, 4], [1, 4]), (slice(1, 4), slice(1, 4)), (-1, [-1]), (None, slice(None))],
    ids=["list", "slice", "one", "all"],
)
def test_units(units, index):
    """Only these units count, of rows and of the vector, which has all of them or only these."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(6))
    for to in (x[3], x[3][index]):
        hits = similar(CACHE, x, to, 5, "l2", units=units)
        check(x[:, index], x[3][index], 5, "l2", hits)


def test_integers_and_single_numbers():
    """Integers are compared as float64 has them; a site of one number per row as well."""
    x = torch.randint(-9, 9, (200, 5), generator=torch.Generator().manual_seed(7))
    check(x, x[3], 6, "l2", similar(CACHE, x, x[3], 6, "l2"))
    line = torch.arange(10.0)
    assert similar(CACHE, line, 3.2, 2, "l2").rows.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"to": [1.0, 2.0, 3.0]}, QueryError, "vector of 2 numbers"),
        ({"to": [1.0, float("nan")]}, QueryError, "NaN or an infinity"),
        ({"to": [[1.0, 1.0], [float("inf"), 0.0]]}, QueryError, "vector 1"),
        ({"to": "king"}, QueryError, "is a str"),
        ({"to": [1.0, 2.0], "metric": "cos"}, QueryError, "'cosine', 'l2', 'dot'"),
        ({"to": [1.0, 2.0], "k": 0}, QueryError, "k=0"),
        ({"to": [1.0, 2.0], "units": [7]}, SelectionError, "7"),
        ({"to": [1.0, 2.0], "units": []}, QueryError, "no unit"),
        ({"to": [1.0, 2.0], "k": True}, QueryError, "k=True"),
        ({"to": [1.0, 2.0], "site": "resid_out_9"}, SiteNotFoundError, "resid_out_0"),
    ],
    ids=["length", "nan", "inf", "text", "metric", "k", "units", "no units", "k is true", "site"],
)
def test_errors(call, error, says):
    """What cannot be asked says what there is."""
    from lazycache.samples import small_cache

    with pytest.raises(error, match=says):
        small_cache().similar(**{"site": "resid_out_0", **call})
