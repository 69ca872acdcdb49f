"""Statistics of a writer against torch in float64: every dtype, NaN, Inf, any chunks and shards."""

import math
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_helpers import new_store, new_writer, snapshot_of

from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.statistics_records import decode_statistics
from lazycache.codec.dtypes import DTYPES, as_bytes, by_name
from lazycache.codec.statistics import ChunkStatistics, read_blocks, read_top, read_zones
from lazycache.errors import CorruptShardError, StorageError
from lazycache.storage.local_store import LocalStore
from lazycache.types import (
    ChunkRef,
    Identity,
    RowBatch,
    ShardRef,
    SiteBlock,
    SiteSpec,
    StatsRef,
    TableBlock,
)
from lazycache.writer import greatest, statistics
from lazycache.writer.fused import COMPILER
from lazycache.writer.statistics import ShardStatistics, has_statistics

NAMES = [dtype.name for dtype in DTYPES]
COMPILED = ("bfloat16", "float32", "float16")  # compiling another one takes seconds of its own


class Memory:
    """An upload into memory that reads ranges like a store."""

    def __init__(self):
        self.data = bytearray()
        self.state = "open"

    def write(self, buffers):
        self.data += b"".join(buffers)

    def finish(self):
        self.state = "finished"

    def abort(self):
        self.state = "aborted"

    def get_ranges(self, _, ranges):
        return [bytes(self.data[start:stop]) for start, stop in ranges]


class CompiledFrom:
    """In place of the compiler: numpy computes so many chunks first; None: all of them."""

    def __init__(self, chunk):
        self.left = chunk

    def kernel(self, dtype, _):
        if self.left is None or dtype not in COMPILED:
            return None
        self.left -= 1
        return COMPILER.prepared(dtype) if self.left < 0 else None


def gathered(values, chunks, *, pieces=50, shard_bytes=1 << 20, compiled=None):
    """Write the statistics of a shard of these chunks; return what a reader finds."""
    with mock.patch.object(statistics, "COMPILER", CompiledFrom(compiled)):
        return written(values, chunks, pieces=pieces, shard_bytes=shard_bytes)


def written(values, chunks, *, pieces, shard_bytes):
    spec = site(values)
    file, refs, row = Memory(), [], 0
    writing = ShardStatistics(spec, "p", create=lambda _: file, shard_bytes=shard_bytes)
    for rows in chunks:
        stop = row + rows
        cuts = [*range(row, stop, pieces), stop]
        parts = [values[a:b] for a, b in pairwise(cuts)]
        writing.add([(as_bytes(part), len(part)) for part in parts])
        refs.append(ChunkRef(rows, 64, 0, (0, 0)))
        row = stop
    stats = writing.finish()
    assert (stats is None) or file.state == "finished"
    shard = ShardRef("a", "d", 1 << 40, row, 0, None, tuple(refs), stats)
    return shard, spec, file.get_ranges


def site(values):
    shape, name = tuple(values.shape[1:]), str(values.dtype).removeprefix("torch.")
    return SiteSpec("a", "tokens", name, shape, math.prod(shape) * values.element_size())


def check_blocks(values, found: ChunkStatistics):
    """Compare with torch over the rows of each block, unit by unit."""
    flat = values.reshape(len(values), -1)
    for block, (start, rows) in enumerate(zip(found.starts, found.rows, strict=True)):
        for unit in range(flat.shape[1]):
            check_unit(flat[start : start + rows, unit], found, block, unit)


def check_unit(values, found, block, unit):
    wide = values.double()
    is_narrow = values.dtype.is_floating_point and values.element_size() <= 2
    rounding = 2.0**-21 if is_narrow else 1e-12
    finite = values[wide.isfinite()]
    assert found.nans[block, unit] == wide.isnan().sum()
    assert found.pos_infs[block, unit] == (wide == math.inf).sum()
    assert found.neg_infs[block, unit] == (wide == -math.inf).sum()
    assert found.finite[block, unit] == len(finite)
    low, high = found.min[block, unit], found.max[block, unit]
    assert low.dtype == values.dtype
    if not len(finite):
        assert all(math.isnan(x[block, unit]) for x in (found.min, found.max, found.mean))
        assert found.sum[block, unit] == found.m2[block, unit] == 0
        return
    kept = finite.double() if values.dtype.is_floating_point else exact(finite)
    assert low.item() == min(finite.tolist())
    assert high.item() == max(finite.tolist())
    if values.dtype.is_floating_point:
        total = math.fsum(kept.tolist())
        bound = rounding * math.fsum(abs(x) for x in kept.tolist())
        assert abs(found.sum[block, unit].item() - total) <= bound
    else:
        total = sum(int(x) for x in kept.tolist())
        assert (int(found.sum[block, unit]) - total) % (1 << 64) == 0
    mean = total / len(finite)
    m2 = math.fsum((x - mean) ** 2 for x in map(float, kept.tolist()))
    scale = max(map(abs, map(float, kept.tolist())))
    assert found.mean[block, unit].item() == pytest.approx(mean, rel=1e-12, abs=rounding * scale)
    # what rounding means and large integers to float64 does to deviations, in any method
    bit = scale * 2.0**-51
    slack = len(finite) * bit**2 + bit * math.sqrt(len(finite) * m2)
    if is_narrow:
        slack += 2.0**-19 * math.fsum(x * x for x in map(float, kept.tolist()))
    assert found.m2[block, unit].item() == pytest.approx(m2, rel=1e-12, abs=slack)


def exact(values):
    return values.numpy()


def check_extremes(values, found, *, rows=128):
    flat = values.reshape(len(values), -1)
    for zone, start in enumerate(range(0, len(flat), rows)):
        part = flat[start : start + rows].double()
        for unit in range(flat.shape[1]):
            finite = part[:, unit][part[:, unit].isfinite()]
            pair = found.min[zone, unit].double(), found.max[zone, unit].double()
            if len(finite):
                assert pair == (finite.min(), finite.max())
            else:
                assert all(math.isnan(x) for x in pair)
    assert len(found.min) == -(-len(flat) // rows)


def check_top(values, found):
    """Descending, the first rows of equal ones, without NaN and Inf."""
    flat = values.reshape(len(values), -1)
    assert len(found.rows) == min(32, len(values))
    for unit in range(flat.shape[1]):
        column = flat[:, unit].tolist()
        rows = [row for row, x in enumerate(column) if math.isfinite(x)]
        best = sorted(rows, key=lambda row: (-column[row], row))[:32]
        assert found.rows[:, unit].tolist() == best + [-1] * (len(found.rows) - len(best))
        assert found.values[: len(best), unit].tolist() == [column[row] for row in best]


def random_values(dtype, rows, shape, seed, odd):
    """Values of very different size; where a dtype has them, also NaN, Inf and ties."""
    random = torch.Generator().manual_seed(seed)
    count = rows * math.prod(shape)
    if not dtype.torch.is_floating_point:
        raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=random).to(torch.uint8)
        raw = raw % 2 if dtype.torch is torch.bool else raw
        return raw.view(dtype.torch).reshape(rows, *shape)
    values = torch.randn(count, generator=random, dtype=torch.float64)
    values *= 2.0 ** torch.randint(-6, 7, (count,), generator=random)
    for number in (math.nan, math.inf, -math.inf, 0.0, -0.0, 3.0) if odd else ():
        values[torch.rand(count, generator=random) < odd] = number
    return values.to(dtype.torch).reshape(rows, *shape)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from([*NAMES, *COMPILED, *COMPILED]),
    chunks=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    shape=st.sampled_from([(), (1,), (3,), (2, 4)]),
    pieces=st.sampled_from([1, 7, 128, 1000]),
    seed=st.integers(0, 99),
    odd=st.sampled_from([0.0, 0.02, 0.5]),
    shard_bytes=st.sampled_from([1 << 10, 1 << 20]),
    compiled=st.sampled_from([None, 0, 1, 3]),
)
def test_statistics_are_those_of_torch_in_float64(
    name, chunks, shape, pieces, seed, odd, shard_bytes, compiled
):
    """Counts, extremes, sums, deviations and ranks, whatever the chunks, pieces and dtypes.

    By numpy, by compiled loops, and by these from a later chunk on.
    """
    values = random_values(by_name(name), sum(chunks), shape, seed, odd)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SMALLEST_SHARD", 1)
        shard, spec, read = gathered(
            values, chunks, pieces=pieces, shard_bytes=shard_bytes, compiled=compiled
        )
    assert sum(shard.stats.chunks) == len(chunks)
    check_blocks(values, read_blocks(shard, spec, read))
    check_extremes(values, read_zones(shard, spec, read))
    check_top(values, read_top(shard, spec, read))


@settings(max_examples=24, deadline=None)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    chunks=st.lists(st.sampled_from([1, 8, 100, 128, 300]), min_size=1, max_size=4),
    size=st.integers(-130, 127),
    mean=st.sampled_from([0.0, 0.5, 3.0, 30.0]),
    seed=st.integers(0, 99),
    compiled=st.sampled_from([None, 0, 1]),
)
def test_sums_of_narrow_floats_are_within_their_bound(dtype, chunks, size, mean, seed, compiled):
    """Of wide rows: values whose squares vanish or overflow as float32, or with a large mean."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(sum(chunks), 260, generator=random, dtype=torch.float64)
    wide = (noise + mean) * 2.0**size
    wide[:, 7] = 0.0
    largest = torch.finfo(dtype).max
    values = wide.clamp(-largest, largest).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SMALLEST_SHARD", 1)
        patch.setattr(statistics, "_BLOCK_BYTES", 1 << 30)
        shard, spec, read = gathered(
            values, chunks, pieces=1000, shard_bytes=1 << 30, compiled=compiled
        )
    found, true = read_blocks(shard, spec, read), values.double()
    assert torch.equal(found.min[0], values.amin(0))
    assert torch.equal(found.max[0], values.amax(0))
    assert bool(((found.sum[0] - true.sum(0)).abs() <= 2.0**-21 * true.abs().sum(0)).all())
    deviations = (true - true.mean(0)).square().sum(0)
    within = (found.m2[0] - deviations).abs() / 2.0**-19 <= true.square().sum(0)
    assert bool(within.all())
    assert found.m2[0, 7] == 0


@pytest.mark.parametrize("mean", [0.0, 1e6, 1e9])
def test_deviations_survive_a_large_mean(mean):
    """The sum of squares minus the square of the sum would have no digit left."""
    values = torch.randn(3000, 2, dtype=torch.float64) + mean
    shard, spec, read = gathered(values, [1000, 900, 1100], shard_bytes=1 << 18)
    blocks = read_blocks(shard, spec, read)
    assert len(blocks.rows) == 3
    check_blocks(values, blocks)


@pytest.mark.parametrize("kind", ["random", "rising", "falling", "constant", "late"])
@pytest.mark.parametrize(
    ("dtype", "compiled"),
    [
        (torch.bfloat16, None),
        (torch.bfloat16, 0),
        (torch.float32, 1),
        (torch.float64, None),
        (torch.int64, None),
    ],
)
def test_the_greatest_are_found_in_any_order_of_values(kind, dtype, compiled):
    """Thresholds that go up early, late or never; many equal values; several sorts on the way."""
    chunks = [6000, 700, 1300] if compiled == 0 else [1300, 1400, 1300]
    rows, units = sum(chunks), 24
    values = {
        "random": torch.randn(rows, units) * 9,
        "rising": torch.arange(rows)[:, None] / 8 + torch.randn(rows, units),
        "falling": -torch.arange(rows)[:, None] / 8 + torch.randn(rows, units),
        "constant": torch.ones(rows, units),
        "late": torch.relu(torch.randn(rows, units) - 3) * (torch.arange(rows)[:, None] > 999),
    }[kind].to(dtype)
    shard, spec, read = gathered(values, chunks, compiled=compiled)
    check_top(values, read_top(shard, spec, read))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
def test_of_late_chunks_only_the_groups_of_few_zones_are_looked_at(dtype):
    """Ranks are the same whether all groups are looked at or those of the few zones above them."""
    values = torch.randn(12_000, 6, generator=torch.Generator().manual_seed(1)) * 20
    values[:1500] *= 1.3  # so that few of the rest are greater
    values[11_990:, 2] = 200.0  # equal ones, in a zone of fewer rows and in its last group
    values = values.to(dtype)
    with mock.patch.object(greatest, "within_zones", wraps=greatest.within_zones) as few:
        shard, spec, read = gathered(values, [1500, 900] * 5, pieces=1 << 20)
    assert few.call_count >= 5
    check_top(values, read_top(shard, spec, read))


@pytest.mark.parametrize("compiled", [None, 0, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.uint64])
def test_the_greatest_of_many_short_chunks_are_found(dtype, compiled):
    """Chunks of fewer rows than a group, and units of fewer finite values than ranks."""
    values = (torch.randn(90, 12) * 3).abs().round()
    values[:40, 0], values[:, 1] = 0.0, 0.0
    if dtype.itemsize == 2:  # without NaN, other values are looked at
        values[1:50, 2], values[:, 3], values[::2, 4] = math.nan, -math.inf, math.inf
    values = values.to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SMALLEST_SHARD", 1)
        shard, spec, read = gathered(values, [*[2] * 10, 3, 9, 30, 28], compiled=compiled)
    check_top(values, read_top(shard, spec, read))


def test_what_would_be_large_beside_the_values_is_left_out():
    """A part above 64 KiB has at most a sixteenth of the values; a tiny shard has none at all."""
    wide = torch.randn(100, 4096, dtype=torch.float32)
    shard, *_ = gathered(wide, [100], shard_bytes=64 << 20)
    assert shard.stats.blocks is None
    assert shard.stats.chunks == ()
    assert shard.stats.top is None
    assert len(shard.stats.zones) == 1
    tiny, *_ = gathered(torch.randn(100, 4), [100])
    assert tiny.stats is None
    assert not has_statistics(
        SiteSpec("p", "tokens", "float32", (2, -1), 8, "ragged"), shard_bytes=9
    )


def test_zones_are_written_in_parts_while_the_shard_grows():
    """At the end of a chunk, once an eighth of a MiB of them waits."""
    values = torch.randn(9000, 1024).half()
    shard, spec, read = gathered(values, [4500, 4500], shard_bytes=64 << 20)
    assert [part.rows for part in shard.stats.zones] == [35, 35, 1]
    zones = read_zones(shard, spec, read)
    padded = torch.cat([values, values[-1:].expand(71 * 128 - 9000, -1)]).reshape(71, 128, 1024)
    assert torch.equal(zones.max, padded.amax(1))
    assert torch.equal(zones.min, padded.amin(1))


ROWS = 900


@pytest.fixture
def store(tmp_path, monkeypatch) -> LocalStore:
    monkeypatch.setattr("os.fsync", lambda _: None)
    return new_store(tmp_path / "dataset")


def batch(number):
    """900 rows of a site that has statistics, and of a ragged one that has none."""
    example = np.full(ROWS, number)
    table = TableBlock(ROWS, {"example": example, "position": np.arange(ROWS, dtype=np.int32)})
    plain = SiteBlock("tokens", values_of(number))
    widths = np.full(ROWS, 4, np.int32)
    ragged = SiteBlock("tokens", torch.ones(ROWS * 8), (2, -1), widths)
    return RowBatch({"tokens": table}, {"plain": plain, "pattern": ragged})


def values_of(number):
    return torch.randn(ROWS, 16, generator=torch.Generator().manual_seed(number))


def test_every_shard_of_a_writer_has_statistics(store):
    """Also over several shards and commits; ragged sites have none; no file is left over."""
    writer = new_writer(store, shard_bytes=40_000, chunk_rows=128, rank=3)
    for number in range(3):
        writer.write(batch(number))
        writer.commit()
    writer.close()
    snapshot = snapshot_of(store)
    assert len(snapshot.shards("plain")) > 3
    everything = torch.cat([values_of(number) for number in range(3)])
    paths = set()
    for placed in snapshot.shards("plain"):
        mine = everything[placed.row_start : placed.row_stop]
        assert placed.ref.stats.path == placed.ref.path.replace("data/", "stats/")
        paths.add(placed.ref.stats.path)
        spec = snapshot.sites["plain"]
        check_blocks(mine, read_blocks(placed.ref, spec, store.get_ranges))
        check_top(mine, read_top(placed.ref, spec, store.get_ranges))
    assert {info.path for info in store.list("stats")} == paths
    assert all(placed.ref.stats is None for placed in snapshot.shards("pattern"))


def test_statistics_can_be_switched_off(store):
    """Then there is no file, and the dataset is one of before."""
    writer = new_writer(store, statistics=False)
    writer.write(batch(0))
    writer.close()
    assert [placed.ref.stats for placed in snapshot_of(store).shards("plain")] == [None]
    assert not list(store.list("stats"))


def test_an_aborted_writer_leaves_no_statistics(store):
    """Finished and open files alike."""
    writer = new_writer(store, shard_bytes=40_000, chunk_rows=128)
    writer.write(batch(0))
    writer.abort()
    assert not list(store.list("stats"))
    assert not list(store.list("data"))


def hostile(stats: StatsRef) -> dict[str, StatsRef]:
    blocks, zone = stats.blocks, stats.zones[0]
    moved = (*blocks.offsets[:-1], blocks.offsets[-1] + (1 << 40))
    return {
        "outside": replace(stats, blocks=replace(blocks, offsets=moved)),
        "short": replace(stats, length=100),
        "other rows": replace(stats, blocks=replace(blocks, rows=blocks.rows + 1)),
        "other chunks": replace(stats, chunks=(*stats.chunks[:-1], stats.chunks[-1] + 1)),
        "empty block": replace(
            stats, chunks=(*stats.chunks, 0), blocks=replace(blocks, rows=blocks.rows + 1)
        ),
        "other zones": replace(stats, zones=(replace(zone, rows=zone.rows + 1),)),
        "huge": replace(stats, top=replace(stats.top, rows=1 << 60)),
        "a matrix too few": replace(stats, zones=(replace(zone, offsets=zone.offsets[:1]),)),
        "no minima": replace(stats, zones=(replace(zone, offsets=(0, zone.offsets[1])),)),
        "backwards": replace(stats, zones=(replace(zone, offsets=zone.offsets[::-1]),)),
        "one file twice": replace(stats, path="tables/x.parquet"),
    }


def test_a_log_that_lies_about_statistics_is_refused(store):
    """Before anything is read: sizes in memory and addresses follow from these numbers."""
    writer = new_writer(store)
    writer.write(batch(0))
    writer.close()
    (commit,) = snapshot_of(store).commits
    plain = next(shard for shard in commit.shards if shard.site == "plain")
    table = replace(commit.tables[0], path="tables/x.parquet")
    replayed(replace(commit, shards=(plain,), tables=(table,)))
    for lie, stats in hostile(plain.stats).items():
        shards = (replace(plain, stats=stats),)
        with pytest.raises(CorruptShardError):
            replayed(replace(commit, shards=shards, tables=(table,)))
            pytest.fail(lie)


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": 7},
        {"blocks": [1, 2]},
        {"zones": None},
        {"zones": [[0, 0, [64, 128]]]},
        {"top": [1, 1 << 32, [64, 128]]},
        {"top": [1, 0, [63, 128]]},
        {"chunks": [-1]},
        {"path": "../x"},
        {"length": "9"},
    ],
)
def test_what_is_no_reference_is_refused(change):
    """Every field has its type and its bounds."""
    good = {"path": "s", "length": 9, "chunks": [], "blocks": None, "zones": [], "top": None}
    assert decode_statistics(good) == StatsRef("s", 9, (), None, (), None)
    with pytest.raises((CorruptShardError, StorageError)):
        decode_statistics({**good, **change})


def replayed(commit):
    return Snapshot.replay(Identity(1, "u", "now"), [commit])
