"""Lazy tensors go to other processes as an address and a selection."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from cache_helpers import same_bits

import lazycache as lc
from lazycache.cache.joined.join import join
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import DatasetNotFoundError, LazycacheError, StorageError
from lazycache.samples import pattern_cache, small_cache


def written(url: str) -> str:
    """Store two sites of three examples in a folder, by a capture."""
    model = torch.nn.Sequential(torch.nn.Embedding(50, 64), torch.nn.Linear(64, 32))
    with lc.capture(model, url, "*"), torch.no_grad():
        model(torch.arange(12).reshape(3, 4))
    return url


VIEWS = [
    lambda x: x,
    lambda x: x[1],
    lambda x: x[:, ::-2, [3, 1]],
    lambda x: x[:2, 1:, 4:9].to(torch.float64),
    lambda x: x.rows[3:],
    lambda x: x[[0, 2], [1, 3]],
    lambda x: x[torch.tensor([0, 2]), :, torch.tensor([5, 6])],
    lambda x: x[..., None, 0],
]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_comes_back_equal(tmp_path, view) -> None:
    """Selection, dtype and device survive, and no value is in the pickle."""
    x = view(lc.open(written(str(tmp_path / "d")))["1:out"])
    found = pickle.loads(pickle.dumps(x))
    assert isinstance(found, LazyTensor)
    assert (found.shape, found.dtype, found.site) == (x.shape, x.dtype, x.site)
    assert same_bits(found.load(), x.load())
    assert same_bits(found[..., :1].load(), x[..., :1].load())


def test_the_pickle_of_a_site_is_small(tmp_path) -> None:
    """It grows neither with the rows nor with the examples."""
    cache = lc.open(written(str(tmp_path / "d")))
    assert len(pickle.dumps(cache["1:out"][1:, 2:, 1:31])) < 2000
    assert cache.io.bytes == 0


def test_patterns_too() -> None:
    """A ragged tensor, its rows, and a selection of heads and keys."""
    lazy = pattern_cache()["pattern_0"]
    for x in (lazy, lazy[1:, 0], lazy[:, :, -1], lazy.rows, lazy[2].to(torch.float64)):
        found = pickle.loads(pickle.dumps(x))
        assert isinstance(found, RaggedTensor)
        assert same_bits(found.padded(3), x.padded(3))


def test_another_process_opens_the_dataset(tmp_path) -> None:
    """A fresh interpreter reads the same bits from the address in the pickle."""
    x = lc.open(written(str(tmp_path / "d")))["0:out"][1:, -1].to(torch.float64)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(x))
    code = (
        "import pathlib, pickle, sys, numpy\n"
        f"x = pickle.loads(pathlib.Path({str(tmp_path / 'x.pickle')!r}).read_bytes())\n"
        f"numpy.save({str(tmp_path / 'got.npy')!r}, x.numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert np.array_equal(np.load(tmp_path / "got.npy"), x.numpy())


def test_a_dataset_that_is_gone_or_replaced_is_refused(tmp_path) -> None:
    """A pickle never reads other rows than those that were selected."""
    url = written(str(tmp_path / "d"))
    data = pickle.dumps(lc.open(url)["0:out"])
    (tmp_path / "d").rename(tmp_path / "e")
    with pytest.raises(DatasetNotFoundError):
        pickle.loads(data)
    written(url)
    with pytest.raises(StorageError, match="replaced"):
        pickle.loads(data)


def test_what_is_computed_or_joined_pickles_what_it_is_made_of() -> None:
    """Operands by address, functions by name, and where the rows come from."""
    x = small_cache()["resid_out_0"]
    shift = torch.tensor([1.0, 2.0])
    made = [
        x * 2 - shift,
        x.norm(-1),
        x.map(torch.relu),
        join([x, x[1:]]),
        x[[0, 1], [1, 2], [0, 1]],
    ]
    for one in made:
        found = pickle.loads(pickle.dumps(one))
        assert same_bits(found.padded(), one.padded())
        kept = found.where("position > 0").rows.load()
        assert same_bits(kept, one.where("position > 0").rows.load())
    with pytest.raises(LazycacheError, match="top of a module"):
        pickle.dumps(x.map(lambda rows: rows))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_equal_and_shares_what_is_open(copied) -> None:
    """Copies read through the same maps; nothing is opened again."""
    cache = small_cache()
    x = cache["resid_out_0"][1:, 0]
    found = copied({"x": x})["x"]
    assert found.source is x.source
    assert same_bits(found.load(), x.load())
    ragged = pattern_cache()["pattern_0"][:, 0]
    assert same_bits(copied(ragged).padded(), ragged.padded())


def test_a_dataset_that_only_this_process_knows_says_so() -> None:
    """Rows of a dataset without an address are not pickled; what to do is said."""
    from dataclasses import replace

    x = small_cache()["resid_out_0"]
    nowhere = LazyTensor(replace(x.source, reopen=None))
    with pytest.raises(LazycacheError, match=r"lc.open\('memory://.*what \.load\(\) returns"):
        pickle.dumps(nowhere)
