"""The table `statistics`: what was stored of each unit, read for the sites that are asked."""

import numpy as np
import pytest
import torch
from query_helpers import FakeReader, small_dataset

import lazycache as lc
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, QueryError
from lazycache.query.sql.connection import connect
from lazycache.samples import pattern_cache, small_cache
from lazycache.storage.open_store import open_store
from lazycache.types import EXAMPLES, TOKENS, RowBatch, RunInfo, SiteBlock, TableBlock
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter

ROWS, EXAMPLE = 6000, 50
NAMES = ("nans", "pos_infs", "neg_infs", "min", "max", "mean", "std", "sum")


def values():
    """Sites of several kinds: with what is not finite, of heads, whole numbers, one number."""
    generator = torch.Generator().manual_seed(0)
    odd = torch.randn(ROWS, 4, generator=generator)
    odd[3:6, 0], odd[7, 0], odd[8:10, 1] = torch.nan, torch.inf, -torch.inf
    odd[:, 2] = torch.nan
    return {
        "odd": odd,
        "heads": torch.randn(ROWS, 2, 3, generator=generator).bfloat16(),
        "whole": torch.randint(-9, 9, (ROWS, 4), generator=generator, dtype=torch.int16),
        "one": torch.randn(ROWS, generator=generator).double(),
    }


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A dataset whose shards have statistics, and its values."""
    folder = tmp_path_factory.mktemp("stored")
    store = open_store(str(folder), create=True, storage_options=None)
    sizes = {"queue_bytes": 1 << 24, "shard_bytes": 1 << 20, "commit_bytes": 1 << 24}
    writer = DatasetWriter(
        store,
        snapshot=Snapshot.replay(create_dataset(store), []),
        run=RunInfo("main", {}),
        settings=Settings(chunk_rows=1000, commit_seconds=60, rank=0, **sizes),
        arrays={},
    )
    ids = np.arange(ROWS // EXAMPLE)
    position = np.tile(np.arange(EXAMPLE, dtype=np.int32), len(ids))
    tokens = {"example": np.repeat(ids, EXAMPLE), "position": position}
    examples = {"example": ids, "length": np.full(len(ids), EXAMPLE)}
    made = values()
    writer.write(
        RowBatch(
            tables={TOKENS: TableBlock(ROWS, tokens), EXAMPLES: TableBlock(len(ids), examples)},
            sites={name: SiteBlock(TOKENS, one) for name, one in made.items()},
        )
    )
    writer.close()
    return folder, made


@pytest.fixture
def cache(stored):
    """The dataset, opened anew: nothing of its statistics is known."""
    with lc.open(stored[0]) as opened:
        yield opened


def reference(matrix, unit):
    """What numpy says of the finite values of a unit; None for what there is not."""
    column = matrix.reshape(len(matrix), -1)[:, unit].double().numpy()
    finite = column[np.isfinite(column)]
    counts = [int(f(column).sum()) for f in (np.isnan, np.isposinf, np.isneginf)]
    if not len(finite):
        return [*counts, None, None, None, None, 0.0]
    numbers = [finite.min(), finite.max(), finite.mean(), finite.std(ddof=1), finite.sum()]
    return [*counts, *numbers]


def check(rows, made, chosen=slice(None)):
    """Compare rows of site, unit, indices, rows and the numbers with numpy, all units of all."""
    keys = [(name, unit) for name in sorted(made) for unit in range(made[name][0].numel())]
    assert [(site, unit) for site, unit, *_ in rows] == keys
    for site, unit, indices, count, *numbers in rows:
        matrix = made[site][chosen]
        assert tuple(indices) == tuple(int(i) for i in np.unravel_index(unit, matrix.shape[1:]))
        assert count == len(matrix)
        expected = reference(matrix, unit)
        assert [one is None for one in numbers] == [one is None for one in expected]
        for number, one in zip(numbers, expected, strict=True):
            assert number == (one if one is None else pytest.approx(one, rel=1e-9, abs=1e-9))


QUERY = f"SELECT site, unit, indices, rows, {', '.join(NAMES)} FROM statistics ORDER BY site, unit"


def test_its_numbers_are_those_of_numpy_and_no_shard_is_read(cache, stored):
    """Every unit of every site, what is not finite counted and in no other number."""
    check(cache.sql(QUERY).fetchall(), stored[1])
    assert (cache.io.bytes, cache.io.rows) == (0, 0)
    assert cache.io.statistics_bytes > 0


@pytest.mark.parametrize(
    ("query", "params", "sites"),
    [
        ("SELECT max FROM statistics WHERE site = 'odd' AND unit = 1", None, {"odd"}),
        ("SELECT max FROM statistics WHERE max > 0 AND site = $s", {"s": "heads"}, {"heads"}),
        ("FROM sites JOIN statistics USING (site)", None, {"odd", "heads", "whole", "one"}),
        ("FROM statistics WHERE site IN ('one', 'odd')", None, {"one", "odd"}),
        ("FROM statistics WHERE site LIKE 'z_%'", None, set()),
        ("SELECT count(*) FROM sites", None, set()),
    ],
)
def test_statistics_of_other_sites_are_not_read(stored, query, params, sites):
    """What is read is what `statistics()` of the sites that survive reads, to the byte."""
    with lc.open(stored[0]) as alone:
        for site in sites:
            alone[site].statistics()
        expected = alone.io.statistics_bytes
    with lc.open(stored[0]) as cache:
        rows = cache.sql(query, params).fetchall()
        assert (cache.io.statistics_bytes, cache.io.bytes) == (expected, 0)
        assert bool(rows) == (bool(sites) or "count" in query)


def test_of_chosen_rows_they_are_those_of_these_rows(cache, stored):
    """`where` comes first: whole blocks from what is stored, the rest is read."""
    with cache.where("example >= 30") as later:
        check(later.sql(QUERY).fetchall(), stored[1], slice(1500, None))
        assert 0 < cache.io.rows < ROWS
    with cache.where("example < 0") as nothing:
        assert nothing.sql("FROM statistics").fetchall() == []
    with lc.connect({"all_of_it": cache, "later": cache.where("example >= 30")}) as connection:
        query = "SELECT a.rows, l.rows FROM all_of_it.statistics a JOIN later.statistics l "
        query += "USING (site, unit) WHERE site = 'one'"
        assert connection.sql(query).fetchall() == [(ROWS, ROWS - 1500)]


def test_sites_without_units_or_statistics():
    """Ragged and computed sites are absent; what was too small for statistics is read."""
    rows = pattern_cache().sql("SELECT site, indices, max FROM statistics ORDER BY unit").fetchall()
    assert rows == [("z_0", [0, 0], 5.0), ("z_0", [1, 0], 50.0)]
    small = small_cache()
    assert small.sql("SELECT std FROM statistics WHERE unit = 0").fetchone()[0] == pytest.approx(
        np.std([0, 2, 4, 6, 8, 10], ddof=1)
    )
    assert (small.io.statistics_bytes, small.io.rows) == (0, 6)


def test_a_damaged_file_is_an_error_of_ours(stored, tmp_path):
    """The very exception of the read, for the site that is damaged alone."""
    url = tmp_path / "copy"
    with lc.open(stored[0]) as cache:
        cache.save(str(url))
    for path in (url / "stats" / "odd").iterdir():
        path.write_bytes(bytes(len(path.read_bytes())))
    with lc.open(url) as cache:
        with pytest.raises(CorruptShardError):
            cache.sql("FROM statistics WHERE site = 'odd'").fetchall()
        assert len(cache.sql("FROM statistics WHERE site = 'whole'").fetchall()) == 4


def test_typos_and_datasets_without_it(cache, tmp_path):
    """The nearest name; and a connection that was made without it has no such table."""
    with pytest.raises(QueryError, match="Nearest: statistics"):
        cache.sql("FROM statistcs")
    with pytest.raises(QueryError, match="Nearest: neg_infs"):
        cache.sql("SELECT neg_inf FROM statistics")
    made = small_dataset(tmp_path)
    with (
        connect(made.snapshot, FakeReader({}), made.store, index_directory=tmp_path) as without,
        pytest.raises(QueryError, match="No table 'statistics'"),
    ):
        without.sql("FROM statistics")
