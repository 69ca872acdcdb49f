"""How values are distributed, beside numpy: histograms, quantiles, bins with samples, rates."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows_helpers import make
from statistics_helpers import known

import lazycache as lc
from lazycache.errors import LazycacheError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.query.describing import quantile_bins
from lazycache.query.describing.quantile_bins import scattered

LENGTHS = (3, 7, 1, 5, 4)
ODD = (math.nan, math.inf, -math.inf, 0.0, -0.0)
DTYPES = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.int8,
    torch.uint16,
    torch.uint64,
    torch.bool,
)
THRESHOLDS = (0.0, 0.1, -1, 3, 0.5, 1e300, -1e300, math.inf, -math.inf, 250.25, 2.0**70)


def values_of(dtype, seed, *, rows=20, units=12, odd=True):
    """Values of which some units lie on one side of zero, some are constant and some odd."""
    random = np.random.default_rng(seed)
    wide = random.normal(size=(rows, units)) * 3
    wide[:, :3] = np.abs(wide[:, :3]) + 0.5
    wide[:, 3:6] = -np.abs(wide[:, 3:6])
    wide[: rows // 2, 6:8] = 0
    if not dtype.is_floating_point:
        found = torch.from_numpy(np.abs(wide) if not dtype.is_signed else wide).long()
        return found.to(dtype)
    if odd:
        places = random.random(wide.shape) < 0.05
        wide[places] = random.choice(ODD, places.sum())
    return torch.from_numpy(wide).to(dtype)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DTYPES), st.sampled_from(THRESHOLDS), st.integers(0, 2**16), st.booleans())
def test_firing_rates_are_the_shares_of_values_above_the_threshold(dtype, threshold, seed, stored):
    """In every dtype the threshold counts as it is; NaN is below; statistics change nothing."""
    values = values_of(dtype, seed)
    cache, x = known(values, LENGTHS, statistics=stored)
    array = values.to(torch.float64).numpy()
    with np.errstate(invalid="ignore"):
        expected = (array > threshold).mean(0)
    assert cache.firing_rates("s", threshold).tolist() == expected.tolist()
    half = cache.firing_rates(x[1:, ::2][..., 4:], threshold)
    rows = x[1:, ::2].rows.load().to(torch.float64)[:, 4:]
    assert half.tolist() == (rows > threshold).double().mean(0).tolist()


def test_firing_rates_read_what_statistics_do_not_say():
    """Decided blocks are not read; of the others, where few units are open, these alone."""
    values = values_of(torch.float32, 3, odd=False)[:, :6].repeat(1, 4)
    cache, _ = known(values, LENGTHS)
    assert cache.firing_rates("s").tolist() == ([1.0] * 3 + [0.0] * 3) * 4
    assert cache.io.rows == 0
    # one unit is open in the second block, of rows 4 to 7, and nowhere else
    values[5, 1] = -1.0
    cache, _ = known(values, LENGTHS)
    assert cache.firing_rates("s")[:3].tolist() == [1.0, 0.95, 1.0]
    assert cache.io.rows == 4
    assert cache.io.bytes < 4 * 24 * 4


def test_of_rows_by_a_condition_and_of_units_by_their_place():
    """`where` and `unit` choose what is counted; several dimensions take an index each."""
    made = make(LENGTHS, dtype=torch.bfloat16)
    cache, kept = made.shared, torch.tensor((made.tokens.position > 1).tolist())
    part = made.x[kept].double()
    where = {"where": "position > $p", "params": {"p": 1}}
    assert (
        cache.firing_rates("x", -2.5, **where).tolist() == (part > -2.5).double().mean(0).tolist()
    )
    found = cache.quantiles("x", [0.2, 0.7], unit=-1, **where)
    expected = torch.quantile(part[:, -1], torch.tensor([0.2, 0.7]).double())
    torch.testing.assert_close(found, expected)
    counts, edges = cache.histogram("x", 4, unit=1, **where)
    reference = np.histogram(part[:, 1].numpy(), 4)
    assert counts.tolist() == reference[0].tolist()
    np.testing.assert_allclose(edges.numpy(), reference[1])
    heads = torch.arange(24.0).reshape(4, 3, 2)
    assert ActivationCache().quantiles(heads, 1.0, unit=(1, -1)).item() == 21.0


@pytest.mark.parametrize("stored", [True, False], ids=["statistics", "none"])
@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_histograms_and_quantiles_of_odd_values_are_numpys(dtype, stored):
    """Of one unit with NaN and infinities: counts of the finite values, quantiles as torch's."""
    values = values_of(dtype, 11)
    values[3, 0], values[4, 0], values[5, 0] = math.inf, -math.inf, math.nan
    values[6, 1], values[7, 1] = math.inf, -math.inf
    cache, _ = known(values, LENGTHS, statistics=stored)
    column = values[:, 0].double().numpy()
    found = cache.histogram("s", 5, unit=0)
    counts, edges = np.histogram(column[np.isfinite(column)], 5)
    assert found.counts.tolist() == counts.tolist()
    np.testing.assert_allclose(found.edges.numpy(), edges)
    assert (found.nans, found.pos_infs, found.neg_infs) == (
        np.isnan(column).sum(),
        (column == np.inf).sum(),
        (column == -np.inf).sum(),
    )
    q = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    assert cache.quantiles("s", q, unit=0).isnan().all()
    expected = torch.quantile(values[:, 1].double(), q)
    torch.testing.assert_close(cache.quantiles("s", q, unit=1), expected, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_bins_hold_the_values_between_their_edges(data):
    """Counts are exact, edges are numpy's, and hits are rows of the bin, each once."""
    by = data.draw(st.sampled_from(["quantile", "width"]))
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float32, torch.int8]))
    numbers = st.sampled_from([0.0, 0.0, -1.0, 0.5, 2.0, 100.0, *ODD[:3]])
    if dtype == torch.int8:
        numbers = st.sampled_from([0, 0, 3, -5, 100])
    values = torch.tensor(data.draw(st.lists(numbers, min_size=1, max_size=30)), dtype=dtype)
    bins, n = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    held = data.draw(st.sampled_from([0, 1 << 20]))
    with mock.patch.object(quantile_bins, "HELD_BYTES", held):
        found = ActivationCache().quantile_samples(values, None, bins, n, by=by, seed=4)
    column = values.double().numpy()
    edges = reference_edges(column, bins, by)
    if edges is None:
        assert found == []
        return
    np.testing.assert_allclose([one.low for one in found], edges[:-1], atol=1e-12)
    np.testing.assert_allclose([one.high for one in found], edges[1:], atol=1e-12)
    member = np.digitize(column, [one.low for one in found][1:])
    for number, (low, high, hits) in enumerate(found):
        mine = np.flatnonzero((member == number) & ~np.isnan(column))
        assert found[number].count == len(mine)
        assert set(hits.rows.tolist()) <= set(mine.tolist())
        assert len(set(hits.rows.tolist())) == len(hits) == min(n, len(mine))
        assert hits.rows.tolist() == sorted(hits.rows.tolist())
        assert hits.values.tolist() == values[hits.rows].tolist()
        assert low <= high


def reference_edges(column, bins, by):
    finite = column[np.isfinite(column)]
    if not len(finite):
        return None
    if by == "width":
        edges = np.linspace(finite.min(), finite.max(), bins + 1)
    else:
        edges = np.quantile(finite, np.arange(bins + 1) / bins)
    kept = np.unique(edges)
    # numbers that differ by rounding are one edge
    kept = kept[np.r_[True, np.diff(kept) > 1e-9]]
    return np.repeat(kept, 2) if len(kept) == 1 else kept


def test_samples_do_not_depend_on_how_rows_are_stored(tmp_path):
    """The same rows by chance, in whatever order they were stored; another seed has others."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(500, 2))
    texts = [torch.randint(500, (1, length)) for length in (40, 3, 25, 60, 31)]

    def drawn(order, seed):
        url = str(tmp_path / f"{list(order)} {seed}")
        with lc.capture(model, url, "0:out", overwrite=True) as run, torch.no_grad():
            for number in order:
                run.annotate(example=[number])
                model(texts[number])
        with lc.open(url) as cache:
            bins = cache.quantile_samples("0:out", 1, 4, 3, seed=seed)
        return [(b.count, b.hits.values.tolist(), b.hits.examples, b.hits.positions) for b in bins]

    assert drawn(range(5), 0) == drawn((3, 0, 4, 1, 2), 0)
    assert drawn(range(5), 0) != drawn(range(5), 1)


def test_samples_are_alike_likely():
    """Of a thousand seeds, each of ten rows is drawn about as often; numbers of places differ."""
    values = torch.arange(10.0)
    drawn = [
        ActivationCache().quantile_samples(values, None, 1, 3, seed=seed)[0].hits.rows
        for seed in range(300)
    ]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert counts.sum() == 900
    assert counts.min() > 60
    assert counts.max() < 120
    assert len(np.unique(scattered(np.arange(10_000), 7))) == 10_000


WRONG = {
    "no bins": (lambda c: c.quantile_samples("x", 0, 0), "bins=0"),
    "no rows of each": (lambda c: c.quantile_samples("x", 0, 3, 1.5), r"n=1\.5"),
    "no seed": (lambda c: c.quantile_samples("x", 0, seed=None), "seed=None"),
    "no such cut": (lambda c: c.quantile_samples("x", 0, by="mean"), "'width'"),
    "no unit": (lambda c: c.quantile_samples("x", None), "is one number, 0 to 2"),
    "unit outside": (lambda c: c.histogram("x", unit=3), "3"),
    "threshold is NaN": (lambda c: c.firing_rates("x", math.nan), "a number"),
    "no such site": (lambda c: c.firing_rates("xx"), "Nearest"),
    "patterns": (lambda c: c.quantiles("pattern_0", 0.5), "different width"),
    "no rows": (lambda c: c.firing_rates("x", where="position > 99"), "no rows"),
}


@pytest.mark.parametrize(("ask", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_asked_is_said(ask, says):
    """Each refusal is one of ours and says what is wrong."""
    with pytest.raises(LazycacheError, match=says):
        ask(make(LENGTHS, dtype=torch.bfloat16).shared)
