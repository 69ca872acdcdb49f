"""Values with a row for each row of a dataset become sites of it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import lazycache as lc
from lazycache.errors import CommitConflictError
from lazycache.samples import small_cache


def two_runs(url):
    """A dataset of two runs and three commits, with pooled values beside those of tokens."""
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3))
    for run, ids in (("a", [[1, 2, 3], [4, 5]]), ("b", [[6], [7, 8, 1]])):
        options = {"resume": True, "progress": False, "run": run, "batch_size": 1}
        lc.extract(model, ids, url, ["0", "1"], **options).close()
        lc.extract(model, [*ids, [2, 2]], url, ["0", "1"], **options).close()
    return lc.open(url)


def test_a_lazy_tensor_with_all_rows_is_stored_as_a_site(tmp_path):
    """Of several runs and commits in one: bit-equal, a column of SQL, with statistics, verified."""
    cache = two_runs(tmp_path)
    weights = torch.randn(4, 70)
    cache["features"] = cache["0:out"].map(lambda rows: (rows @ weights).relu().bfloat16())
    cache["gap"] = cache["0:out"][..., :3] - cache["1:out"]
    cache["labels"] = ["a", "b"]
    assert cache.persist() == cache.version + 1

    again = lc.open(tmp_path)
    assert again["labels"] == ["a", "b"]
    for name in ("features", "gap"):
        assert torch.equal(again[name].rows.load(), cache[name].rows.load())
        assert again[name].lengths.tolist() == cache["0:out"].lengths.tolist()
    assert {"features", "gap"} <= set(again.sites)
    assert again.sites["features"].dtype == "bfloat16"
    values = again["features"].rows.load()
    asked = again.sql("SELECT unit(features, 69) FROM tokens ORDER BY row").fetchall()
    assert [a for (a,) in asked] == values[:, 69].tolist()
    again.io.reset()
    assert torch.equal(again["features"].max("rows"), values.amax(0))
    assert again["features"].rows.columns("example", "position") == cache["0:out"].rows.columns(
        "example", "position"
    )
    assert lc.verify(tmp_path).ok


def test_what_is_no_row_of_every_row_stays_a_value_beside_the_sites():
    """A part, another order, a number for each unit, the name of a stored value: as they are."""
    cache = small_cache()
    x = cache["resid_out_0"]
    cache["part"] = x.where("position > 0") * 1
    cache["turned"] = x.rows[torch.arange(5, -1, -1)] * 1
    cache["mean"] = x.mean("rows")
    cache["known"] = 1
    cache.persist()
    cache = lc.open(cache.url)
    cache["known"] = cache["resid_out_0"] * 2
    cache.persist()
    again = lc.open(cache.url)
    assert list(again.sites) == ["resid_out_0"]
    assert torch.equal(again["turned"].load(), x.rows.load().flip(0))
    assert torch.equal(again["part"].rows.load(), x.rows.load()[[1, 3, 4]])
    assert torch.equal(again["known"].rows.load(), x.rows.load() * 2)


def test_a_site_is_added_once():
    """`persist` again leaves it out, `refresh` shows the site; its values are not changed."""
    cache = small_cache()
    cache["twice"] = cache["resid_out_0"] * 2
    cache["note"] = "first"
    assert cache.persist("twice") == 2
    assert (cache.persist("twice"), cache.copy().persist("twice")) == (2, 2)
    assert cache.persist() == 3  # the note alone
    assert cache.at(1).persist("twice") == 2
    assert "twice" not in cache.sites
    cache.refresh()
    assert cache.sites["twice"].dtype == "float32"
    assert list(cache) == ["resid_out_0", "twice", "note"]
    assert torch.equal(cache["twice"].rows.load(), cache["resid_out_0"].rows.load() * 2)
    assert list(lc.open(cache.url).stored.snapshot.entries) == ["note"]

    cache["twice"] = cache["resid_out_0"] * 3
    with pytest.raises(CommitConflictError, match="has a site 'twice' already"):
        cache.persist()
    assert torch.equal(cache["twice"].rows.load(), cache["resid_out_0"].rows.load() * 3)
    assert lc.open(cache.url).version == 3


def test_of_two_that_add_one_name_at_once_one_adds_it(tmp_path):
    """The other one hears of it and adds nothing, of its other sites and values neither."""
    two_runs(tmp_path).close()
    caches, together = [lc.open(tmp_path) for _ in range(2)], threading.Barrier(2)
    for factor, cache in enumerate(caches):
        cache["mine"] = cache["0:out"] * (factor + 2)
        cache[f"own{factor}"], cache[f"note{factor}"] = cache["0:out"] - factor, factor

    def add(cache):
        together.wait()
        try:
            return cache.persist()
        except CommitConflictError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(add, caches))
    assert sorted(type(one).__name__ for one in done) == ["CommitConflictError", "int"]
    won = int(isinstance(done[1], int))
    again = lc.open(tmp_path)
    assert list(again) == ["0:out", "1:out", "mine", f"own{won}", f"note{won}"]
    assert torch.equal(again["mine"].rows.load(), again["0:out"].rows.load() * (won + 2))
    assert lc.verify(tmp_path).ok
