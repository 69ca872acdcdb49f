"""Datasets on the Hugging Face Hub, read through its API from a fake of it."""

import huggingface_hub.constants
import pytest
import torch
from fake_hub import REPOSITORY, hub

import lazycache as lc
from lazycache.errors import StorageError


def captured(url, **options):
    """Three commits of 50 rows of 800 units."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 800))
    with lc.capture(model, url, "0", **options) as run:
        for _ in range(3):
            model(torch.randn(50, 4))
            run.commit()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A dataset in a folder of a repository: its folder, address, options and requests."""
    monkeypatch.setenv("LAZYCACHE_CACHE_BYTES", "0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # ours is not far
    captured(tmp_path / "sub")
    with hub(tmp_path) as (endpoint, asked):
        options = {"endpoint": endpoint, "token": False, "skip_instance_cache": True}
        yield tmp_path / "sub", f"hf://datasets/{REPOSITORY}/sub", options, asked


def test_a_repository_is_read_as_a_folder(served):
    """The same values; one row is one request of its bytes, not of megabytes behind them."""
    folder, url, options, asked = served
    cache, same = lc.open(url, storage_options=options), lc.open(folder)
    assert len(asked) == 4  # the identity and three records
    asked.clear()
    assert torch.equal(cache["0:out"].rows[5].load(), same["0:out"].rows[5].load())
    ((path, said),) = asked
    first, last = map(int, said.removeprefix("bytes=").split("-"))
    assert path.startswith("sub/data/")
    assert last + 1 - first == cache.io.bytes == 800 * 4
    assert torch.equal(cache["0:out"].rows.load(), same["0:out"].rows.load())
    assert cache.sql("SELECT count(*) FROM examples").fetchall() == [(150,)]


def test_a_repository_is_not_written(served):
    """It cannot decide who is first: that is said before anything is sent."""
    folder, url, options, asked = served
    before = sorted(folder.rglob("*"))
    for how in ({"resume": True, "run": "other"}, {"overwrite": True}):
        with pytest.raises(StorageError, match="cannot create an object only if"):
            captured(url, storage_options=options, **how)
    assert sorted(folder.rglob("*")) == before
    assert {said for _, said in asked} == {None}
