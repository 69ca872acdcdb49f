"""lazycache.cache.tensor.rankings and what it is made of: exact, whatever the size of a block."""

import re

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, small_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_helpers import known

from lazycache.codec.dtypes import DTYPES
from lazycache.errors import MemoryBudgetError, SelectionError

ODD = st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0])
NUMBERS = st.one_of(st.floats(width=32), ODD)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch) -> None:
    """Several blocks, tiles and threads even for a handful of rows."""
    monkeypatch.setattr("lazycache.cache.aggregates.row_stream.BLOCK_BYTES", 8 * 12 * 5)
    monkeypatch.setattr("lazycache.cache.aggregates.row_stream.NUMBERED_ROWS", 7)
    monkeypatch.setattr("lazycache.cache.aggregates.reduce.PIECE_VALUES", 30)
    monkeypatch.setattr("lazycache.cache.aggregates.extremes._KEPT", 2)
    monkeypatch.setattr("lazycache.cache.files.parallel.PARALLEL_BYTES", 1)


def lazy(values: torch.Tensor, lengths: list[int], **options):
    return known(values, lengths, statistics=False, **options)[1]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.double().nan_to_num(7e300), b.double().nan_to_num(7e300))


def drawn(data, *, columns: int, most: int = 30) -> torch.Tensor:
    rows = data.draw(st.integers(1, most))
    flat = data.draw(st.lists(NUMBERS, min_size=columns * rows, max_size=columns * rows))
    return torch.tensor(flat, dtype=torch.float32).reshape(rows, columns)


@settings(max_examples=25)
@given(st.data())
def test_places_are_torchs(data) -> None:
    """Argmax and argmin over any dimension or all, with NaN, infinities and ties."""
    values = drawn(data, columns=6, most=20)
    uniform = lazy(values.repeat(2, 1).reshape(-1, 2, 3), [len(values)] * 2)
    dense = values.reshape(1, -1, 2, 3).repeat(2, 1, 1, 1)
    for name in ("argmax", "argmin"):
        for dim in (None, 0, 1, 2, -1):
            for keepdim in (False, True):
                want = getattr(torch, name)(dense, dim=dim, keepdim=keepdim)
                found = getattr(uniform, name)(dim, keepdim)
                found = found if isinstance(found, torch.Tensor) else found.load()
                assert torch.equal(found, want)
        flat = dense.reshape(-1, 2, 3)
        assert torch.equal(getattr(uniform, name)("rows"), getattr(torch, name)(flat, dim=0))


def test_places_in_ragged_examples_count_inside_each() -> None:
    """dim=1 is a place in the example, "rows" one in x.rows, None one in x.rows in one row."""
    values = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    lengths, order = [5, 2, 9], [2, 0, 1]
    x = lazy(values, lengths, order=order)
    parts = dict(zip(order, values.split(lengths), strict=True))
    want = torch.stack([parts[i].argmax(0) for i in range(3)])
    assert torch.equal(x.argmax(1), want)
    assert torch.equal(x.argmax("rows"), values.argmax(0))
    assert x.argmin().item() == values.argmin().item()
    assert torch.equal(x[1:].argmax("rows"), x[1:].rows.load().argmax(0))
    assert torch.equal(x.argmin(2)[0].load(), parts[0].argmin(1))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_every_dtype(dtype) -> None:
    """What compares values does so in every dtype, also in those that torch cannot compare."""
    raw = (torch.randperm(100, generator=torch.Generator().manual_seed(3)) + 1).reshape(20, 5)
    values = raw.to(dtype.torch)
    x, wide = lazy(values, [20]), values.to(torch.float64)
    assert torch.equal(x.argmax("rows"), wide.argmax(0))
    assert torch.equal(x.argmin(0).double(), wide.reshape(1, 20, 5).argmin(0).double())
    best = x.topk(4)
    assert best.values.dtype == dtype.torch
    assert torch.equal(best.values.double(), wide.topk(4, dim=0).values)
    least = x.topk(4, largest=False)
    assert torch.equal(least.values.double(), wide.topk(4, dim=0, largest=False).values)
    median = x.median()
    assert median.dtype == dtype.torch
    assert torch.equal(median.double(), wide.median(0).values)
    q = torch.tensor([0.1, 0.5], dtype=torch.float64)
    assert torch.equal(x.quantile(q), wide.quantile(q, 0))
    counts, edges = x.histogram(5)
    want = np.histogram(wide.numpy(), 5)
    assert counts.tolist() == want[0].tolist()
    assert edges.tolist() == want[1].tolist()
    found = x.statistics()
    assert (found.min.dtype, found.rows) == (dtype.torch, 20)
    assert torch.equal(found.max.double(), wide.amax(0))
    torch.testing.assert_close(found.std, wide.std(0), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64, torch.int8, torch.float64])
def test_the_ends_of_a_dtype(dtype: torch.dtype) -> None:
    """Keys hold the least and the greatest of a dtype, and all their bits."""
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    ends = [limits.min, limits.max, 1, 0, limits.max - 1]
    raw = np.array(ends * 2, dtype=str(dtype).removeprefix("torch."))
    x = lazy(torch.from_numpy(raw).reshape(-1, 1), [10])
    order = np.sort(raw)
    assert x.topk(10).values[:, 0].tolist() == order[::-1].tolist()
    assert x.median().item() == order[4].item()
    assert x.argmax("rows").item() == 1


@pytest.mark.parametrize("working_bytes", [1 << 20, 4000, 1])
@settings(max_examples=20)
@given(data=st.data())
def test_quantiles_are_torchs(working_bytes: int, data) -> None:
    """By sorting or by digits, of any size: the very numbers of torch in float64."""
    values = drawn(data, columns=3)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    values = values.to(dtype)
    x, wide = lazy(values, [len(values)]), values.double()
    q = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=3))
    how = data.draw(st.sampled_from(["linear", "lower", "higher", "midpoint", "nearest"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lazycache.cache.aggregates.quantiles.WORKING_BYTES", working_bytes)
        want = wide.quantile(torch.tensor(q, dtype=torch.float64), 0, interpolation=how)
        assert same(x.quantile(q, interpolation=how), want)
        assert same(x.quantile(q[0], None), wide.quantile(q[0]))
        assert same(x.median(), values.median(0).values)
        assert same(x.median(1, keepdim=True)[0, 0], values.median(0).values)
        assert same(x.median(None), values.median())


def test_quantiles_read_as_often_as_they_say(monkeypatch) -> None:
    """One pass where all fits; else as many as a key has digits, in counts that do not grow."""
    monkeypatch.setattr("lazycache.cache.aggregates.row_stream.BLOCK_BYTES", 1 << 16)
    values = torch.randn(2000, 4, generator=torch.Generator().manual_seed(9))
    for dtype, working, passes in [
        (torch.float32, 1 << 20, 1),
        (torch.float32, 4 * 8 << 8, 4),  # digits of 8 bits
        (torch.bfloat16, 4 * 8 << 8, 2),
        (torch.bfloat16, 2 * 8 << 8, 4),  # two units at a time
    ]:
        monkeypatch.setattr("lazycache.cache.aggregates.quantiles.WORKING_BYTES", working)
        cache, x = known(values.to(dtype), [2000], statistics=False, shard_rows=500, chunk_rows=250)
        assert torch.equal(x.median(), values.to(dtype).median(0).values)
        assert cache.io.rows == 2000 * passes


def test_quantiles_of_dimensions_that_stay() -> None:
    """Per example, over examples, and over units of rows of several dimensions."""
    values = torch.randn(24, 3, 4, generator=torch.Generator().manual_seed(0))
    x, dense = lazy(values, [4] * 6), values.double().view(6, 4, 3, 4)
    q = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for dim in (0, 1):
        assert torch.equal(x.quantile(q, dim), dense.quantile(q, dim))
        kept = x.quantile(q, dim, keepdim=True)
        assert torch.equal(kept, dense.quantile(q, dim, keepdim=True))
    assert torch.equal(
        x.quantile(0.2, (0, 1, 3)), dense.movedim(2, 0).reshape(3, -1).quantile(0.2, 1)
    )
    assert torch.equal(x.quantile(0.2, 3).load(), dense.quantile(0.2, 3))
    ragged = lazy(values, [5, 10, 9])
    parts = values.double().split([5, 10, 9])
    want = torch.stack([part.quantile(q, 0) for part in parts], 1)
    assert torch.equal(ragged.quantile(q, 1), want)


@settings(max_examples=25)
@given(st.data())
def test_top_rows_name_example_and_position(data) -> None:
    """Of every selection; values and rows belong together, and are the best there are."""
    values = drawn(data, columns=2)
    rows = len(values)
    cut = data.draw(st.integers(0, rows))
    order = data.draw(st.permutations(range(2)))
    x = lazy(values, [cut, rows - cut], order=order)
    index = data.draw(
        st.sampled_from([(), (slice(1, None),), (slice(None), slice(None, None, -2)), ([1, 0],)])
    )
    chosen = x[index]
    there = int(chosen.rows.shape[0])
    if not there:
        return
    k, largest = data.draw(st.integers(1, there)), data.draw(st.booleans())
    found = chosen.topk(k, largest=largest)
    want = chosen.rows.load().topk(k, dim=0, largest=largest).values
    assert same(found.values, want)
    for unit in range(2):
        named = x[found.examples[:, unit].tolist(), found.positions[:, unit].tolist(), unit].load()
        assert same(named, found.values[:, unit])
        assert same(values[found.rows[:, unit], unit], found.values[:, unit])
        assert len(set(found.rows[:, unit].tolist())) == k


@settings(max_examples=25)
@given(st.data())
def test_histograms_are_numpys(data) -> None:
    """Edges and counts, of all values and of each unit, over any range; the rest is counted."""
    values = drawn(data, columns=2)
    x, wide = lazy(values, [len(values)]), values.double().numpy()
    bins = data.draw(st.one_of(st.integers(1, 9), st.just([-1.0, 0.0, 0.5, 3.0])))
    limits = data.draw(st.one_of(st.none(), st.just((-2.0, 3.0)), st.just((1.0, 1.0))))
    limits = limits if isinstance(bins, int) else None
    each, every = x.histogram(bins, limits, dim="rows"), x.histogram(bins, limits)
    for unit in (0, 1, None):
        h, mine = (every, wide) if unit is None else (each, wide[:, unit])
        part = ... if unit is None else unit
        finite = mine[np.isfinite(mine)]
        try:
            want = np.histogram(finite, bins, limits)
        except ValueError:  # float64 cannot tell the edges apart; numpy refuses, we count
            counted = h.counts[part].sum() + h.below[part] + h.above[part]
            assert int(counted) == len(finite)
            continue
        assert h.edges[part].tolist() == want[1].tolist()
        assert h.counts[part].tolist() == want[0].tolist()
        lost = h.below[part] + h.above[part]
        assert int(lost) == np.isfinite(mine).sum() - want[0].sum()
        assert int(h.nans[part]) == np.isnan(mine).sum()
        assert int(h.pos_infs[part] - h.neg_infs[part]) == np.sign(mine[np.isinf(mine)]).sum()


def test_histogram_is_torchs() -> None:
    """The counts of torch.histogram, and its edges as float64 has them."""
    values = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    counts, edges = lazy(values, [200]).histogram(11)
    want = torch.histogram(values, 11)
    assert torch.equal(counts.double(), want.hist)
    torch.testing.assert_close(edges, want.bin_edges, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bins": 0}, "at least one"),
        ({"bins": [1.0]}, "two or more"),
        ({"bins": [1.0, 0.0]}, "ascend"),
        ({"bins": [0.0, 1.0], "range": (0, 1)}, "no range"),
        ({"range": (1, 0)}, "ascending"),
        ({"range": (0, torch.inf)}, "finite"),
        ({"range": (1,)}, "two numbers"),
        ({"bins": "auto"}, "two or more"),
        ({"dim": 1}, "dim='rows'"),
    ],
)
def test_histograms_that_make_no_sense(options, says: str) -> None:
    """Bins, edges and ranges are looked at before anything is read."""
    with pytest.raises(SelectionError, match=re.escape(says)):
        small_cache()["resid_out_0"].histogram(**options)
    with pytest.raises(MemoryBudgetError, match="fewer bins"):
        small_cache()["resid_out_0"].histogram(10**12)


def test_what_cannot_be_asked_says_why() -> None:
    """Of no rows, too many, another dimension, or a quantile beyond one."""
    x = small_cache()["resid_out_0"]
    empty = x[:0]
    for ask in (
        lambda: empty.argmax("rows"),
        lambda: empty.quantile(0.5),
        empty.median,
        empty.statistics,
    ):
        with pytest.raises(SelectionError, match="no rows"):
            ask()
    assert empty.histogram(2).counts.tolist() == [0, 0]
    for ask, says in [
        (lambda: x.topk(7), "6 rows"),
        (lambda: x.topk(1.5), "6 rows"),
        (lambda: x.quantile("half"), "from 0 to 1"),
        (lambda: x.topk(2, dim=-1), "all rows"),
        (lambda: x.argmax((0, 1)), "one dimension"),
        (lambda: x.quantile(1.5), "from 0 to 1"),
        (lambda: x.quantile(0.5, interpolation="cubic"), "linear"),
        (lambda: x.quantile(0.5, 0), "different length"),
        (lambda: x.statistics(0), "all rows"),
    ]:
        with pytest.raises(SelectionError, match=says):
            ask()


def test_statistics_count_what_is_not_finite_and_leave_it_out() -> None:
    """Numbers of the finite values only; nan of a unit that has none."""
    values = torch.randn(21, 3, generator=torch.Generator().manual_seed(2))
    values[3, 0], values[4, 0], values[5, 0] = torch.nan, torch.inf, -torch.inf
    values[:, 2] = torch.nan
    found = lazy(values, [10, 11]).statistics()
    finite = values[values[:, 0].isfinite(), 0].double()
    assert found.finite.tolist() == [18, 21, 0]
    assert (found.nans[2], found.pos_infs[0], found.neg_infs[0]) == (21, 1, 1)
    torch.testing.assert_close(found.mean[0], finite.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.std[0], finite.std(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.sum[0], finite.sum(), rtol=1e-12, atol=0)
    assert (found.min[0], found.max[0]) == (finite.min().float(), finite.max().float())
    assert all(getattr(found, name)[2].isnan() for name in ("min", "max", "mean", "std"))
    both = lazy(values, [10, 11]).statistics(None)
    assert (both.rows, both.nans.item()) == (63, 22)
    assert both.max == values[values.isfinite()].max()


def test_statistics_show_a_table_of_some_units() -> None:
    """Text is a line for each unit, and short however many there are."""
    text = repr(lazy(torch.arange(200.0).reshape(2, 100), [2]).statistics())
    assert text.splitlines()[0] == "Statistics(2 rows, 100 units, float32)"
    assert len(text.splitlines()) == 11
    assert re.search(r"99 +0 +0 +99 +199 +149", text)


PATTERN = [
    torch.rand(3, w, generator=torch.Generator().manual_seed(w)) for w in (2, 2, 4, 4, 4, 4, 1)
]


@pytest.fixture
def ragged():
    from lazycache.storage.open_store import open_store

    dataset = Dataset(open_store("memory://ragged-rank", create=True, storage_options=None))
    dataset.commit([(0, 2), (1, 4), (2, 1)], {"p": PATTERN})
    return dataset.cache(budget_bytes=0)["p"]


def examples() -> list[torch.Tensor]:
    cut = [PATTERN[:2], PATTERN[2:6], PATTERN[6:]]
    return [torch.stack(rows, 1).double() for rows in cut]


OPS = {
    "mean": torch.mean,
    "sum": torch.sum,
    "min": torch.amin,
    "max": torch.amax,
    "std": torch.std,
    "var": torch.var,
    "norm": torch.linalg.vector_norm,
    "count_nonzero": torch.count_nonzero,
}


@pytest.mark.parametrize("name", OPS)
def test_ragged_aggregates_stream_example_by_example(ragged, name: str) -> None:
    """Over everything, by head, by example: without loading, though the budget is zero."""
    function, parts = OPS[name], examples()
    flat = torch.cat([part.flatten(1) for part in parts], 1)
    torch.testing.assert_close(
        getattr(ragged, name)().double(), function(flat.flatten(), dim=0).double()
    )
    by_head = getattr(ragged, name)((0, 2, 3))
    torch.testing.assert_close(by_head.double(), function(flat, dim=1).double())
    by_example = getattr(ragged[:2], name)((2, 3), keepdim=True)
    want = torch.stack([function(part.flatten(1), dim=1) for part in parts[:2]])[..., None, None]
    torch.testing.assert_close(by_example.double(), want.double())
    last = getattr(ragged[:2, 0, -1], name)(1)
    want = torch.stack([function(part[0, -1], dim=0) for part in parts[:2]])
    torch.testing.assert_close(last.double(), want.double())


def test_ragged_distributions(ragged) -> None:
    """Histogram and statistics stream; places of each example too; what is left must be dense."""
    parts = examples()
    flat = torch.cat([part.flatten() for part in parts])
    counts, edges = ragged.histogram(4)
    want = np.histogram(flat.numpy(), 4)
    assert (counts.tolist(), edges.tolist()) == (want[0].tolist(), want[1].tolist())
    torch.testing.assert_close(ragged.statistics().mean, flat.mean())
    found = ragged[:, :, -1].argmax(2)
    assert torch.equal(found, torch.stack([part[:, -1].argmax(1) for part in parts]))
    with pytest.raises(SelectionError, match="queries and keys"):
        ragged.mean((0, 1))
    with pytest.raises(SelectionError, match="keys"):
        ragged[:, :, 0].sum(0)
    with pytest.raises(SelectionError, match="different width"):
        ragged.topk(2)
    with pytest.raises(SelectionError, match="different width"):
        ragged.statistics("rows")
