"""What statistics answer without reading is the same as by reading."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_helpers import known

from lazycache.cache.joined.join import join
from lazycache.cache.reading import kept_statistics
from lazycache.codec.dtypes import DTYPES
from lazycache.errors import CorruptShardError, SelectionError

OPS = ("mean", "sum", "min", "max", "std", "var", "norm", "any", "all")
EXACT = {"min", "max", "any", "all", "count_nonzero"}


def agree(found: torch.Tensor, want: torch.Tensor, op: str) -> None:
    assert found.dtype == want.dtype
    if op in EXACT or not found.dtype.is_floating_point:
        assert torch.equal(found.double().nan_to_num(7e300), want.double().nan_to_num(7e300))
    else:
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-300, equal_nan=True)


def normal(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_whole_sites_of_every_dtype_read_no_shard(dtype) -> None:
    """Every answer over all rows is that of the values, and no byte of a shard is read for it."""
    values = (normal(43, 5) * 40).to(torch.int32).remainder(97).to(dtype.torch)
    if dtype.torch.is_floating_point:
        values = normal(43, 5).to(dtype.torch)
    lengths = [7, 0, 20, 16]
    cache, x = known(values, lengths)
    _, streamed = known(values, lengths, statistics=False, url="memory://streamed")
    for op in OPS[:-1]:
        for dim in ("rows", None):
            agree(getattr(x, op)(dim), getattr(streamed, op)(dim), op)
    assert cache.io.bytes == cache.io.requests == 0
    assert cache.io.statistics_bytes > 0
    agree(x.all("rows"), streamed.all("rows"), "all")
    agree(x.count_nonzero("rows"), streamed.count_nonzero("rows"), "count_nonzero")


@given(st.data())
@settings(max_examples=50)
def test_selections_agree_with_reading_them(data) -> None:
    """Whatever examples, positions and units are selected, by whatever index."""
    rows = data.draw(st.integers(1, 60))
    special = st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0])
    values = normal(rows, 2, 3, seed=rows)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, 1))
        values[place] = data.draw(special)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    lengths = np.diff([0, *cuts, rows]).tolist()
    order = data.draw(st.permutations(range(len(lengths))))
    layout = {"chunk_rows": data.draw(st.integers(1, 5)), "shard_rows": 11}
    _, x = known(values, lengths, order=order, **layout)
    _, streamed = known(
        values, lengths, order=order, statistics=False, url="memory://streamed", **layout
    )
    low, high = (data.draw(st.integers(0, len(lengths))) for _ in range(2))
    examples = st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=3)
    index = data.draw(
        st.sampled_from(
            [
                (slice(low, high),),
                (slice(None), slice(1, None)),
                (slice(None), slice(None, None, 2)),
                (slice(None), slice(None, None, -1)),
                (data.draw(examples),),
                (Ellipsis, 1),
                (Ellipsis, slice(0, 2)),
                (Ellipsis, slice(None), [2, 0]),
                (),
            ]
        )
    )
    dim = data.draw(st.sampled_from(["rows", None, -1, (0, 1)]))
    op = data.draw(st.sampled_from(OPS))
    found, want = x[index], streamed[index]
    if dim == -1:
        found, want, dim = found.rows, want.rows, (0, len(found.rows.shape) - 1)
    if want.rows.shape[0] or op not in {"min", "max"}:
        agree(getattr(found, op)(dim), getattr(want, op)(dim), op)
    if want.rows.shape[0]:
        mine, theirs = found.statistics(), want.statistics()
        for name in ("nans", "pos_infs", "neg_infs", "min", "max"):
            agree(getattr(mine, name), getattr(theirs, name), "min")
        for name in ("mean", "std", "sum"):
            a, b = getattr(mine, name), getattr(theirs, name)
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_only_the_rows_at_the_edges_are_read() -> None:
    """Of a slice of rows the blocks inside are known; of a selection by example likewise."""
    values = normal(40, 3)
    cache, x = known(values, [10] * 4, chunk_rows=4, shard_rows=20)
    assert torch.equal(x.rows[6:31].max("rows"), values[6:31].amax(0))
    # blocks end at 8, 12, 16, 20, 24, 28: rows 6, 7, 28, 29, 30 are read
    assert (cache.io.rows, cache.io.bytes) == (5, 5 * 12)
    cache.io.reset()
    assert torch.equal(x[2:].min("rows"), values[20:].amin(0))
    assert torch.equal(x[2:, :, 1].min("rows"), values[20:, 1].amin(0))
    assert cache.io.rows == 0
    assert torch.equal(x[1:3].max("rows"), values[10:30].amax(0))
    assert cache.io.rows == 4  # rows 10 and 11, 28 and 29
    cache.io.reset()
    assert torch.equal(x[:, -1].max("rows"), values[9::10].amax(0))
    assert cache.io.rows == 4


def test_rows_that_are_selected_twice_count_twice() -> None:
    """A block whose rows are there twice, or not all, is read and not taken for known."""
    values = normal(12, 2)
    _, x = known(values, [4, 4, 4], chunk_rows=4)
    torch.testing.assert_close(
        x[[0, 0, 2]].sum("rows"), values[[*range(4)] * 2 + [*range(8, 12)]].double().sum(0)
    )
    twice = x.rows[[0, 1, 2, 2]]
    torch.testing.assert_close(twice.sum("rows"), values[[0, 1, 2, 2]].double().sum(0))


def test_statistics_are_read_once_and_kept_in_bounded_memory(monkeypatch) -> None:
    """Another question costs nothing; beyond the limit what there is room for is found again."""
    values = normal(60, 3)
    cache, x = known(values, [60], shard_rows=10)
    x.mean("rows")
    once = cache.io.statistics_bytes
    held = x.source.reader._kept_statistics._bytes
    x.std("rows")
    assert cache.io.statistics_bytes == once
    for share, kept in ((1, 1), (held // 2, 3)):
        monkeypatch.setattr(kept_statistics, "KEPT_BYTES", share)
        cache, x = known(values, [60], shard_rows=10)
        x.mean("rows")
        x.std("rows")
        # a pass over all of it does not drive out what the next one begins with
        assert cache.io.statistics_bytes == once + once * (6 - kept) // 6
        assert len(x.source.reader._kept_statistics._held) == kept


def test_of_no_units_there_is_what_the_values_give() -> None:
    """Extremes of no units are none, and of no values at all an error, with statistics or not."""
    for statistics in (True, False):
        _, x = known(normal(12, 2), [12], statistics=statistics, url=f"memory://no{statistics}")
        empty = x[..., :0]
        assert empty.max("rows").shape == empty.mean("rows").shape == (0,)
        assert empty.var(None).isnan()
        for dim in (None, -1):
            with pytest.raises(SelectionError, match="no rows"):
                empty[0].min(dim).rows.load() if dim else empty.min(dim)


def test_other_dtypes_and_derived_tensors_are_read() -> None:
    """Statistics are those of the stored values: converted or computed ones are streamed."""
    values = normal(20, 3)
    cache, x = known(values, [20])
    assert torch.equal(x.to(torch.bfloat16).max("rows"), values.bfloat16().amax(0))
    torch.testing.assert_close((x * 2).sum("rows"), (values * 2).double().sum(0))
    assert cache.io.rows == 40
    assert cache.io.statistics_bytes == 0


def test_large_means_keep_their_digits() -> None:
    """Merging blocks is Chan's, so that deviations do not drown in the mean."""
    values = (torch.arange(400, dtype=torch.float64) % 7 + 1e9).unsqueeze(1)
    cache, x = known(values, [400], chunk_rows=3, shard_rows=90)
    want = float(np.var(values.numpy() - 1e9, ddof=1))
    # a mean in float64 says where 1e9 is to 1e-7
    assert math.isclose(x.var("rows").item(), want, rel_tol=1e-8)
    assert cache.io.bytes == 0


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows_as_in_torch(odd: float) -> None:
    """One value that is not finite is in the answer for its unit, and in no other."""
    values = normal(30, 3)
    values[17, 1] = odd
    cache, x = known(values, [30])
    wide = values.double()
    for op, want in {
        "mean": wide.mean(0),
        "sum": wide.sum(0),
        "min": wide.amin(0),
        "max": wide.amax(0),
        "var": wide.var(0),
        "norm": torch.linalg.vector_norm(wide, dim=0),
    }.items():
        torch.testing.assert_close(
            getattr(x, op)("rows").double(), want, rtol=1e-12, atol=1e-12, equal_nan=True
        )
    found = x.statistics()
    there = torch.arange(30) != 17
    torch.testing.assert_close(found.mean[1], wide[there, 1].mean(), rtol=1e-12, atol=1e-12)
    assert (found.nans + found.pos_infs + found.neg_infs).tolist() == [0, 1, 0]
    assert cache.io.bytes == 0


def test_statistics_that_were_changed_are_an_error() -> None:
    """A flipped bit in a statistics file is found before it is believed."""
    _, x = known(normal(20, 3), [20], shard_rows=20)
    ref = x.source.reader.plan("s").shards[0].stats
    data = bytearray(x.source.reader._store.get(ref.path))
    data[ref.blocks.offsets[-1]] ^= 1
    x.source.reader._store.put(ref.path, bytes(data))
    with pytest.raises(CorruptShardError, match="checksum"):
        x.mean("rows")


@given(st.data())
@settings(max_examples=40)
def test_top_rows_from_statistics_are_those_of_the_values(data) -> None:
    """The largest, in whole shards or at their edges, with NaN, infinities and ties."""
    rows = data.draw(st.integers(1, 50))
    numbers = st.sampled_from([0.0, -0.0, 1.0, 2.5, -3.0, torch.inf, -torch.inf, torch.nan])
    finite = st.sampled_from([0.0, 1.0, 2.5, -3.0, 7.0])
    pool = data.draw(st.sampled_from([numbers, finite]))
    flat = data.draw(st.lists(pool, min_size=2 * rows, max_size=2 * rows))
    values = torch.tensor(flat).reshape(rows, 2)
    _, x = known(values, [rows], chunk_rows=data.draw(st.integers(1, 4)), shard_rows=9)
    start = data.draw(st.integers(0, rows - 1))
    k = data.draw(st.integers(1, rows - start))
    found = x.rows[start:].topk(k)
    assert torch.equal(values.gather(0, found.rows).nan_to_num(9e9), found.values.nan_to_num(9e9))
    score = torch.where(values.isnan(), torch.inf, values)[start:] + 0
    order = torch.argsort(
        torch.where(values[start:].isnan(), 1, 0) * 2.0 + torch.atan(score),
        dim=0,
        descending=True,
        stable=True,
    )
    assert torch.equal(found.rows, order[:k] + start)
    assert torch.equal(found.positions, found.rows)


def test_top_rows_of_a_whole_site_read_no_shard() -> None:
    """The largest 32 are stored with their rows; a unit of them too; others are read."""
    values = normal(300, 4)
    cache, x = known(values, [100, 50, 150], order=[2, 0, 1], chunk_rows=20, shard_rows=100)
    found = x.topk(32)
    want = values.topk(32, dim=0)
    assert torch.equal(found.values, want.values)
    assert torch.equal(found.rows, want.indices)
    assert torch.equal(x[..., 2].topk(5).rows, want.indices[:5, 2])
    assert cache.io.bytes == 0
    for r, e, p in zip(
        *(t[:3, 1].tolist() for t in (found.rows, found.examples, found.positions)), strict=True
    ):
        assert torch.equal(x[e, p].load(), values[r])
    assert torch.equal(x.topk(3, largest=False).values, values.topk(3, dim=0, largest=False).values)
    assert torch.equal(x.topk(33).values, values.topk(33, dim=0).values)


def test_joined_sites_are_answered_from_the_statistics_of_their_parts() -> None:
    """Caches that were joined read no shard either; selections at their borders read the edges."""
    caches, values = [], []
    for number, rows in enumerate((30, 0, 43)):
        values.append(normal(rows, 4, seed=number))
        options = {"url": f"memory://part{number}", "chunk_rows": 5, "shard_rows": 20}
        caches.append(known(values[-1], [rows // 3, rows - rows // 3], **options))
    x = join([one for _, one in caches])
    dense = torch.cat(values)
    torch.testing.assert_close(x.std("rows"), dense.double().std(0), rtol=1e-12, atol=0)
    assert torch.equal(x[..., [2, 0]].max(), dense[:, [2, 0]].amax())
    assert sum(cache.io.bytes for cache, _ in caches) == 0
    found = x.topk(9)
    assert torch.equal(found.values, dense.topk(9, dim=0).values)
    assert torch.equal(dense.gather(0, found.rows), found.values)
    some = x.rows[17:41]
    torch.testing.assert_close(some.mean("rows"), dense[17:41].double().mean(0), rtol=1e-12, atol=0)
    narrow = join([one[..., 1:3] for _, one in caches])
    torch.testing.assert_close(narrow.mean("rows"), dense[:, 1:3].double().mean(0))
    assert torch.equal(narrow[..., 1].topk(2).values, dense[:, 2].topk(2).values)
    assert sum(cache.io.rows for cache, _ in caches) < 60
