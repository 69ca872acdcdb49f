"""Storing values beside sites, older versions, newer ones."""

import errno
import os

import pytest
import torch

import lazycache as lc
from lazycache.errors import ReadOnlyError
from lazycache.samples import small_cache


def test_persisted_values_are_there_for_who_opens_the_dataset():
    """`persist` commits what is in memory; the last value of a name counts; sites stay."""
    cache = small_cache()
    cache["probe"], cache["labels"], cache["scratch"] = torch.ones(2), ["a", "b"], 1
    assert cache.persist("probe", "labels") == 2
    cache["probe"] = torch.zeros(3)
    assert cache.persist("probe") == 3
    again = lc.open(cache.url)
    assert list(again) == ["resid_out_0", "probe", "labels"]
    assert again["probe"].load().tolist() == [0, 0, 0]
    assert again["labels"] == ["a", "b"]
    assert again.at(2)["probe"].load().tolist() == [1, 1]
    assert torch.equal(again["resid_out_0"].rows.load(), cache["resid_out_0"].rows.load())
    assert again.sql("SELECT count(*) FROM tokens").fetchall() == [(6,)]
    with pytest.raises(lc.SiteNotFoundError, match="Nearest: scratch"):
        cache.persist("scretch")
    assert cache.persist() == 4
    assert lc.open(cache.url)["scratch"] == 1


def test_a_value_that_was_changed_after_reading_is_persisted_as_it_is_now(tmp_path):
    """A list that was read may be changed and stored again under its name."""
    lc.ActivationCache({"log": [1]}).save(tmp_path)
    cache = lc.open(tmp_path)
    cache["log"].append(2)
    assert cache.persist() == 1  # nothing is in memory alone
    assert cache.persist("log") == 2
    assert lc.open(tmp_path)["log"] == [1, 2]


def test_at_and_refresh_move_between_versions():
    """`at` is another cache; `refresh` goes on in place; tensors taken before stay as they were."""
    cache = small_cache()
    writer = lc.open(cache.url)
    x = cache["resid_out_0"]
    writer["more"] = torch.ones(2)
    writer.persist()
    cache["mine"] = "kept"
    assert list(cache) == ["resid_out_0", "mine"]
    older = cache.at(0)
    assert list(older) == ["mine"]
    assert (cache.version, older.version) == (1, 0)
    assert cache.refresh() is cache
    assert (cache.version, list(cache)) == (2, ["resid_out_0", "mine", "more"])
    assert x.rows.load()[0].tolist() == [0, 1]
    del cache["more"]
    assert "more" not in cache.refresh()
    assert list(cache.at(1)) == ["resid_out_0", "mine"]
    with pytest.raises(lc.errors.SelectionError, match="versions are 0 to 2"):
        cache.at(3)


def test_refresh_reads_new_records_only(tmp_path, monkeypatch):
    """Records that are known are not read again."""
    lc.ActivationCache({"a": 1}).save(tmp_path)
    cache, writer = lc.open(tmp_path), lc.open(tmp_path)
    writer["b"] = 2
    writer.persist()
    read = []
    whole = type(cache.store).get
    monkeypatch.setattr(
        type(cache.store), "get", lambda self, path: read.append(path) or whole(self, path)
    )
    assert cache.refresh()["b"] == 2
    assert read == ["lazycache.json", "_log/00000000000000000002.json"]


def test_a_restricted_cache_stays_restricted():
    """`where` holds at other versions too."""
    cache = small_cache().where("position = 0")
    writer = lc.open(cache.url)
    writer["n"] = 1
    writer.persist()
    assert cache.refresh()["resid_out_0"].lengths.tolist() == [1, 1, 1]
    assert cache.version == 2


def test_a_cache_in_memory_has_no_versions():
    """It says what to do instead."""
    cache = lc.ActivationCache({"a": 1})
    for call in (cache.refresh, lambda: cache.at(1), cache.persist):
        with pytest.raises(lc.LazycacheError, match="no dataset behind"):
            call()


def test_a_dataset_that_was_replaced_is_told(tmp_path):
    """Going on with another dataset at the same address is refused."""
    lc.ActivationCache({"a": 1}).save(tmp_path)
    cache = lc.open(tmp_path)
    lc.ActivationCache({"b": 1}).save(tmp_path, overwrite=True)
    with pytest.raises(lc.LazycacheError, match="replaced"):
        cache.refresh()
    cache["c"] = torch.ones(1)
    with pytest.raises(lc.LazycacheError, match="replaced"):
        cache.persist()
    assert list(lc.open(tmp_path)) == ["b"]
    assert not list(tmp_path.glob("entries/*.parquet"))
    with pytest.raises(lc.LazycacheError):
        lc.open(tmp_path, snapshot=7)


@pytest.mark.parametrize("why", ["folder", "server"])
def test_a_place_that_only_reads_is_told(tmp_path, monkeypatch, why):
    """A folder without permission, or a file system without writing, is ReadOnlyError."""
    lc.ActivationCache({"a": 1}).save(tmp_path)
    cache = lc.open(tmp_path)
    cache["b"] = torch.ones(1)
    if why == "server":
        from lazycache.errors import StorageError

        def refuse(*_):
            raise StorageError(errno.ENOTSUP, "Could not create: not implemented.")

        monkeypatch.setattr(type(cache.store), "create", refuse)
    elif os.geteuid() == 0:
        from lazycache.errors import StorageError

        def denied(*_):
            raise StorageError(13, "Could not create: Permission denied.")

        monkeypatch.setattr(type(cache.store), "create", denied)
    else:
        (tmp_path / "entries").chmod(0o500)
    with pytest.raises(ReadOnlyError, match="to another address"):
        cache.persist()
