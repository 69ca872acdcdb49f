"""The best rows of a unit by stored bounds: those of the values, and few rows are read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from statistics_helpers import known

from lazycache.cache.aggregates.topk import best_rows
from lazycache.cache.joined.join import join
from lazycache.cache.reading import kept_statistics
from lazycache.cache.reading.ordering import keys_of
from lazycache.writer import statistics_parts

ODD = (torch.nan, torch.inf, -torch.inf)


def best(values: torch.Tensor, rows: np.ndarray, k: int, *, largest: bool) -> np.ndarray:
    """Return the k best of rows by sorting all of them: of equal values the lower row."""
    keys = keys_of(values).numpy()[rows]
    return rows[np.lexsort((rows, ~keys if largest else keys))][:k]


@given(data=st.data())
@settings(max_examples=50)
def test_the_best_rows_are_those_of_sorting(data) -> None:
    """Any dtype, ties, NaN and infinities, several shards, any selection, more than 32."""
    seed = data.draw(st.integers(0, 1 << 16))
    random, rows = np.random.default_rng(seed), data.draw(st.integers(1, 900))
    dtype = data.draw(st.sampled_from([torch.bfloat16, torch.float32, torch.int64, torch.bool]))
    # long waves, so that some pieces are out of the question, and few levels, so that many tie
    levels = data.draw(st.sampled_from([3, 40, 100_000]))
    waves = np.sin(np.arange(rows)[:, None] / data.draw(st.integers(20, 400)) + [[0.0, 2.0]])
    values = torch.from_numpy(np.round(levels * (waves + 0.2 * random.normal(size=(rows, 2)))))
    if dtype.is_floating_point:
        odd = data.draw(st.sampled_from([(), ODD, ODD[1:2], ODD[2:], ODD[:1]]))
        share = data.draw(st.sampled_from([0.003, 0.5]))
        for one in odd:
            values[torch.from_numpy(random.random((rows, 2)) < share)] = one
    values = values.to(dtype)
    _, x = known(
        values, [rows], chunk_rows=data.draw(st.integers(30, 200)), shard_rows=rows // 3 + 1
    )
    kind = data.draw(st.sampled_from(["all", "part", "some", "backwards"]))
    chosen = np.arange(rows)
    if kind == "part":
        chosen = chosen[rows // 5 : rows - rows // 7]
    elif kind == "some":
        chosen = np.flatnonzero(random.random(rows) < data.draw(st.sampled_from([0.02, 0.6])))
    elif kind == "backwards":
        chosen = chosen[::-1].copy()
    if not len(chosen):
        return
    k = data.draw(st.sampled_from([1, 20, 33, 100, 900]))
    largest = data.draw(st.booleans())
    flat = x.rows[torch.from_numpy(chosen)]
    found = flat.topk(min(k, len(chosen)), largest=largest)
    for unit in (0, 1):
        want = best(values[:, unit], chosen, k, largest=largest)
        assert found.rows[:, unit].tolist() == want.tolist()
        assert keys_of(found.values[:, unit]).tolist() == keys_of(values[want, unit]).tolist()
        finite = chosen[~values[chosen, unit].isnan().numpy()]
        numbers = best_rows(flat[:, unit], k, largest=largest, nans=False)[1][:, 0]
        without = best(values[:, unit], finite, k, largest=largest)
        assert numbers[: len(without)].tolist() == without.tolist()
        assert (numbers[len(without) :] > rows).all()


def waves() -> torch.Tensor:
    """Return 6,000 rows of 64 units that are large in different places, as text is."""
    random = torch.Generator().manual_seed(0)
    slow = torch.randn(6000 // 50, 64, generator=random).repeat_interleave(50, 0)
    return (4 * slow + torch.randn(6000, 64, generator=random)).to(torch.bfloat16)


def test_few_rows_are_read_where_ranks_do_not_suffice() -> None:
    """More than 32, the smallest, a selection: zones say where; of 32 no row is read at all."""
    values = waves()
    cache, x = known(values, [2000] * 3, chunk_rows=500, shard_rows=2000)
    unit = x[..., 5]
    every = np.arange(6000)
    for k, largest, most in [(32, True, 0), (60, True, 400), (200, True, 2600), (20, False, 1500)]:
        cache.io.reset()
        found = unit.topk(k, largest=largest)
        assert found.rows.tolist() == best(values[:, 5], every, k, largest=largest).tolist()
        assert cache.io.rows <= most, (k, largest)
        assert not most or cache.io.rows > 0
    cache.io.reset()
    # all that is stored is kept: nothing of it is read a second time
    assert unit.topk(200).rows.tolist() == best(values[:, 5], every, 200, largest=True).tolist()
    assert cache.io.statistics_bytes == 0
    odd = x.rows[1::3]
    want = best(values[:, 5], every[1::3], 20, largest=True)
    assert odd[:, 5].topk(20).rows.tolist() == want.tolist()
    assert cache.io.rows < 4000


def test_parts_of_zones_are_read_where_they_may_matter(monkeypatch) -> None:
    """A shard has its zones in parts: of blocks that cannot have the least none is read."""
    monkeypatch.setattr(statistics_parts, "_PENDING", 1)
    values = torch.zeros(4096, 64)
    values[:, 0] = torch.arange(4096.0)
    cache, x = known(values, [4096], chunk_rows=512, shard_rows=4096)
    assert len(x.source.reader.plan("s").shards[0].stats.zones) == 8
    assert x[..., 0].topk(1, largest=False).rows.tolist() == [0]
    zone = 2 * 4 * 64
    # four blocks are looked at at first, then four zones
    assert cache.io.rows == 4 * 128
    zones = cache.io.statistics_bytes - 8 * 64 * (4 + 4 + 8 + 8 + 8)
    assert 4 * 4 * zone <= zones < 5 * 4 * zone


def test_infinities_are_found_where_nobody_wrote_them_down() -> None:
    """Only blocks are known to have some: these are read as a whole, the others are not."""
    values = waves().float()
    values[2700, 7], values[2701, 7], values[100, 8] = torch.inf, torch.nan, -torch.inf
    cache, x = known(values, [6000], chunk_rows=500, shard_rows=2000)
    assert x[..., 7].topk(2).rows.tolist() == [2701, 2700]
    # but for those that are stored with their rows
    assert 468 <= cache.io.rows <= 500
    cache.io.reset()
    assert x[..., 8].topk(1, largest=False).rows.tolist() == [100]
    # and three of the zones that came next
    assert 500 <= cache.io.rows <= 500 + 3 * 128
    cache.io.reset()
    assert x[..., 9].topk(2).rows.tolist() == values[:, 9].topk(2).indices.tolist()
    assert cache.io.rows == 0


@pytest.mark.parametrize("largest", [True, False])
def test_joined_sites_have_the_zones_of_their_parts(largest: bool) -> None:
    """Rows are those of the joined tensor; selections of units and of rows count on."""
    values = waves()
    parts = [
        known(part, [len(part)], chunk_rows=300, shard_rows=1500, url=f"memory://zones-{number}")
        for number, part in enumerate((values[:2500], values[2500:]))
    ]
    x = join([one[..., 3:9] for _, one in parts])[..., 2]
    found = x.topk(150, largest=largest)
    want = best(values[:, 5], np.arange(6000), 150, largest=largest)
    assert found.rows.tolist() == want.tolist()
    # of more shards than that the greatest of each say which count
    assert x.topk(2, largest=largest).rows.tolist() == want[:2].tolist()
    assert sum(cache.io.rows for cache, _ in parts) < 4500


@pytest.mark.parametrize("blocks", [1, 16])
@pytest.mark.parametrize("matrices", [0, 1 << 20], ids=["little-memory", "memory"])
def test_of_many_shards_the_ranks_of_few_are_read(monkeypatch, blocks: int, matrices: int) -> None:
    """The greatest of each shard say which: kept for all units, from what is less to read."""
    monkeypatch.setattr(kept_statistics, "MATRIX_BYTES", matrices)
    values = waves()[:4800].float()
    values[:, 3] = values[:, 3].round()
    values[:, 4] = 0.0  # all tie: the first shard has the first rows
    values[100:160, 5], values[170, 6], values[4000, 6] = torch.nan, torch.inf, -torch.inf
    values[160:320, 7] = torch.nan
    cache, x = known(values, [4800], chunk_rows=160 // blocks, shard_rows=160)
    statistics = x.source.reader.statistics("s")
    want = torch.stack([values[at : at + 160] for at in range(0, 4800, 160)]).nan_to_num(-1e9)
    want = torch.where(want.isinf() | (want > 1e9), -1e9, want).amax(1)
    peaks = statistics.peaks(range(30), torch.arange(64))
    assert torch.equal(peaks.nan_to_num(-1e9), want)
    # eight numbers of a block or 32 ranks of a shard: 1 block is less, 16 are more
    kinds = {kind for kind, _ in x.source.reader._kept_statistics._held}
    assert kinds == ({"blocks"} if blocks == 1 else {"top"})
    x.source.reader._kept_statistics._held.clear()
    for unit in (0, 3, 4, 5, 6, 7):
        for k in (1, 5):
            rows = best_rows(x[..., unit], k, largest=True, nans=False)[1][:, 0]
            finite = np.flatnonzero(~values[:, unit].isnan().numpy())
            assert rows.tolist() == best(values[:, unit], finite, k, largest=True).tolist()
        if unit == 0 and matrices:
            top = 32 * 64 * (4 + 4)
            # and the numbers of blocks with values that are not finite
            odd = 4 * blocks * 64 * (4 * 3 + 4 * 2 + 8 * 3)
            assert cache.io.statistics_bytes < 30 * top + 5 * top + odd + 30 * 64 * 32 * blocks
