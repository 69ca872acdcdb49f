"""Values with a row for each row of a dataset become sites of it."""

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
    """Of several runs and commits: bit-equal, a column of SQL, with statistics, and verified."""
    cache = two_runs(tmp_path)
    weights = torch.randn(4, 70)
    cache["features"] = cache["0:out"].map(lambda rows: (rows @ weights).relu().bfloat16())
    cache["gap"] = cache["0:out"][..., :3] - cache["1:out"]
    assert cache.persist() == cache.version + 4  # a commit for each run and site

    again = lc.open(tmp_path)
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
    """A part, another order, a number for each unit, the name of a site: as they are."""
    cache = small_cache()
    x = cache["resid_out_0"]
    cache["part"] = x.where("position > 0") * 1
    cache["turned"] = x.rows[torch.arange(5, -1, -1)] * 1
    cache["mean"] = x.mean("rows")
    cache["resid_out_0"] = x * 2
    cache.persist()
    again = lc.open(cache.url)
    assert list(again.sites) == ["resid_out_0"]
    assert torch.equal(again["turned"].load(), x.rows.load().flip(0))
    assert torch.equal(again["part"].rows.load(), x.rows.load()[[1, 3, 4]])
    assert torch.equal(again["resid_out_0"].rows.load(), x.rows.load() * 2)


def test_a_site_is_added_once():
    """A second `persist` of one name is refused and changes nothing."""
    cache = small_cache()
    cache["twice"] = cache["resid_out_0"] * 2
    assert cache.persist() == 2
    cache["twice"] = cache["resid_out_0"] * 3
    with pytest.raises(CommitConflictError, match="twice"):
        cache.persist()
    again = lc.open(cache.url)
    assert again.version == 2
    assert torch.equal(again["twice"].rows.load(), again["resid_out_0"].rows.load() * 2)
