"""A cache over a dataset is saved as a dataset: rows, columns, runs and sites that it shows."""

import numpy as np
import pytest
import torch
from dataset_helpers import gpt2, ragged_corpus

import lazycache as lc
from lazycache import rewriting
from lazycache.samples import pattern_cache

SITES = ["resid_out_*", "head_out_1", "pattern_0", "transformer.wte:out"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dataset of two runs, a site that the second lacks, patterns, heads and columns."""
    url = tmp_path_factory.mktemp("source") / "acts"
    model = gpt2(n_layer=2)
    corpus = [
        {"input_ids": ids, "label": "ab"[i % 2], "score": None if i % 3 else i / 2}
        for i, ids in enumerate(ragged_corpus(12))
    ]
    lc.extract(model, corpus, url, SITES, batch_size=4, progress=False)
    lc.extract(model, corpus[:5], url, SITES[:1], batch_size=2, run="second", progress=False)
    return url


def _ragged(x):
    return [values.load() for values in x]


def check_same(left, right):
    """Two caches show the same rows, with the same columns, and bit for bit the same values."""
    for table in ("tokens", "examples"):
        asked = f"SELECT * EXCLUDE (row) FROM {table} ORDER BY row"
        columns = [name for name in right.sql(asked).columns if name not in right]
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY row"
        assert left.sql(query).fetchall() == right.sql(query).fetchall()
    assert list(left.sites) == list(right.sites)
    for name, site in right.sites.items():
        mine, theirs = left[name], right[name]
        assert mine.dtype == theirs.dtype
        if site.layout == "ragged":
            assert all(map(torch.equal, _ragged(mine), _ragged(theirs)))
        else:
            assert torch.equal(mine.rows.load(), theirs.rows.load())
            assert mine.lengths.tolist() == theirs.lengths.tolist()


def test_everything_that_is_stored_is_there_again(source, tmp_path, monkeypatch):
    """Tables, values, runs, computed sites and patterns are those of the source, bit for bit."""
    monkeypatch.setattr(rewriting, "BATCH_BYTES", 2000)  # batches of a few rows
    cache = lc.open(source)
    cache["note"] = {"why": ("all", 1)}
    cache.save(tmp_path / "copy")
    copy = lc.open(tmp_path / "copy")
    assert list(copy) == [*cache.sites, "note"]
    check_same(copy, cache)
    assert copy["note"] == {"why": ("all", 1)}
    assert {k: r.info for k, r in copy.snapshot.runs.items()} == {
        k: r.info for k, r in cache.snapshot.runs.items()
    }
    assert dict(copy.snapshot.sites) == dict(cache.snapshot.sites)
    assert copy.snapshot.columns("examples") == cache.snapshot.columns("examples")
    assert copy.stored_bytes("head_out_1") == 0


def test_deleted_sites_are_left_out_and_what_follows_from_them_is_stored(source, tmp_path):
    """Without `z_1` the values of `head_out_1` are stored; a converted site is saved converted."""
    cache = lc.open(source)
    wanted = cache["head_out_1"].rows.load()
    del cache["z_1"], cache["pattern_0"], cache["resid_out_0"]
    cache.to(torch.float64)
    cache.save(tmp_path / "part")
    part = lc.open(tmp_path / "part")
    assert list(part) == ["head_out_1", "resid_out_1", "transformer.wte:out"]
    assert part["head_out_1"].dtype == torch.float64
    assert torch.equal(part["head_out_1"].rows.load(), wanted.double())
    assert part.stored_bytes("head_out_1") == wanted.nbytes * 2
    assert part.snapshot.arrays("main") == {}


def test_a_restricted_cache_is_saved_as_it_shows_itself(source, tmp_path):
    """Of `where` the kept rows and examples are written, with their ids, positions and columns."""
    shown = lc.open(source).where("label = 'b' AND position > 0")
    shown.save(tmp_path / "some")
    some = lc.open(tmp_path / "some")
    check_same(some, shown)
    assert some.sql("SELECT min(position), min(label), max(label) FROM tokens "
                    "JOIN examples USING (example, run)").fetchall() == [(1, "b", "b")]  # fmt: skip


def test_joined_caches_are_saved_one_behind_the_other(tmp_path):
    """`cat` of two datasets becomes one; runs of one name get names of their own."""
    first, second = pattern_cache(), pattern_cache()
    z, pattern = first["z_0"].rows.load(), _ragged(first["pattern_0"])
    first.cat(second)
    first.save(tmp_path / "both")
    both = lc.open(tmp_path / "both")
    assert list(both.snapshot.runs) == ["main", "main-2"]
    assert torch.equal(both["z_0"].rows.load(), torch.cat([z, z]))
    assert all(map(torch.equal, _ragged(both["pattern_0"]), [*pattern, *pattern]))
    assert both["head_out_0"].shape[0] == 6


def test_columns_of_joined_caches_may_differ_in_type(tmp_path):
    """A column that is text in one dataset and numbers in the other is both, as in one dataset."""
    for name, label in (("first", 3), ("second", "x")):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2))
        with lc.capture(model, tmp_path / name, "0") as run:
            run.annotate(label=[label, None], half=[1, 0.5 if name == "second" else 2])
            model(torch.ones(2, 2))
    joined = lc.open(tmp_path / "first")
    joined.cat(lc.open(tmp_path / "second"))
    joined.save(tmp_path / "both")
    both = lc.open(tmp_path / "both")
    assert both.snapshot.columns("examples")["label"] == "string"
    found = both.sql("SELECT label, half FROM examples ORDER BY row").fetchall()
    assert found == [("3", 1.0), (None, 2.0), ("x", 1.0), (None, 0.5)]


def test_a_saved_site_has_statistics_of_its_own(tmp_path):
    """What is saved converted or restricted is answered without a shard, as it is shown."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    with lc.capture(model, tmp_path / "acts", "0"):
        model(torch.randn(500, 64))
    cache = lc.open(tmp_path / "acts").where("example > 99")
    cache.to(torch.float64)
    cache.save(tmp_path / "some")
    some = lc.open(tmp_path / "some")
    mean = some["0:out"].mean("rows")
    assert (some.io.bytes, some.io.statistics_bytes > 0) == (0, True)
    wanted = cache["0:out"].rows.load().mean(0)
    torch.testing.assert_close(mean, wanted, rtol=1e-12, atol=1e-12)


def test_a_site_without_values_is_declared(tmp_path):
    """A site that no row has is a site of the copy too."""
    cache = pattern_cache().where("position > 99")
    cache.save(tmp_path / "none")
    assert lc.open(tmp_path / "none").snapshot.rows("tokens") == 0
    assert np.all(cache["z_0"].lengths == 0)


def test_an_error_on_the_way_leaves_nothing(source, tmp_path, monkeypatch):
    """If a read fails half way no dataset appears, and no file is left behind."""
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

    calls = iter(range(100))
    whole = LazyTensor.values_of

    def failing(self, rows):
        if next(calls) == 5:
            raise lc.LazycacheError("the store is gone")
        return whole(self, rows)

    monkeypatch.setattr(LazyTensor, "values_of", failing)
    monkeypatch.setattr(rewriting, "BATCH_BYTES", 2000)
    with pytest.raises(lc.LazycacheError, match="gone"):
        lc.open(source).save(tmp_path / "half")
    with pytest.raises(lc.DatasetNotFoundError):
        lc.open(tmp_path / "half")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
