"""lazycache.cache.tensor.reductions: aggregates under the names of torch and numpy."""

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, small_cache

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import SelectionError
from lazycache.storage.open_store import open_store

VALUES = torch.arange(24.0).reshape(6, 4)


@pytest.fixture
def x():
    dataset = Dataset(open_store("memory://reductions", create=True, storage_options=None))
    dataset.commit([(0, 3), (1, 3)], {"s": VALUES})
    return dataset.cache(budget_bytes=0)["s"]


DENSE = VALUES.double().reshape(2, 3, 4)


@pytest.mark.parametrize("name", ["mean", "sum", "max", "min", "std", "var", "amax"])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1), np.int64(1)])
def test_numpys_functions_stream(x, name: str, axis) -> None:
    """`np.mean(x, axis=0)` is numpy's number, without loading: the budget is zero."""
    function = getattr(np, name)
    found = function(x, axis=axis)
    np.testing.assert_allclose(found, function(DENSE.numpy(), axis=axis), rtol=1e-12)


@pytest.mark.parametrize("name", ["mean", "sum", "max", "min", "std", "var", "norm"])
@pytest.mark.parametrize("dim", [None, 0, -1, (0, 2), [1], "rows", np.int32(2)])
def test_kept_dimensions_have_length_one(x, name: str, dim) -> None:
    """`keepdim` and `keepdims` leave ones where the dimensions were."""
    dims = {None: (0, 1, 2), "rows": (0, 1)}.get(dim if not isinstance(dim, list) else 1, dim)
    function = {"max": "amax", "min": "amin"}.get(name, name)
    dims = [int(d) for d in dims] if isinstance(dims, (list, tuple)) else int(dims)
    of = torch.linalg.vector_norm if name == "norm" else getattr(torch, function)
    want = of(DENSE, dim=dims, keepdim=True)
    found = getattr(x, name)(dim, keepdims=True)
    assert getattr(x, name)(dim, keepdim=True).shape == want.shape
    # of each row by itself the result is lazy: the rows stay
    found = found.load() if isinstance(found, LazyTensor) else found
    torch.testing.assert_close(found.double(), want)


def test_ragged_examples_keep_dimensions_too() -> None:
    """One result per example, the positions left as one."""
    x = small_cache()["resid_out_0"]
    assert x.mean(1, keepdim=True).tolist() == x.mean(1)[:, None].tolist()


def test_torchs_functions_stream_with_keepdim_and_no_dimension(x) -> None:
    """`torch.sum(x, ())` is the sum of all, and keepdim needs no load."""
    want = torch.sum(VALUES.reshape(2, 3, 4), ())
    assert torch.equal(torch.sum(x, ()), want)
    assert torch.equal(torch.mean(x, 0, keepdim=True), DENSE.mean(0, keepdim=True).float())
    assert torch.equal(torch.amax(x, np.int64(0)), VALUES.reshape(2, 3, 4).amax(0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dtype": np.float32}, "takes no dtype"),
        ({"out": np.zeros(4)}, "no out"),
        ({"dim": 0, "axis": 0}, "give one"),
        ({"dim": 1.5}, "dimension 1.5"),
        ({"dim": (0, "a")}, "numbers"),
    ],
)
def test_what_an_aggregate_cannot_do_it_says(x, options: dict, says: str) -> None:
    """Dtype and out are refused, not ignored."""
    with pytest.raises(SelectionError, match=says):
        x.mean(**options)
    with pytest.raises(TypeError, match="no argument where"):
        x.mean(where=True)


@pytest.mark.parametrize("dim", [None, 0, -1, "rows"])
def test_a_single_value_is_its_own_aggregate(x, dim) -> None:
    """As torch: a value without dimensions has the dimension 0."""
    one = x[1, 2, 3]
    for name, want in [("mean", 23), ("sum", 23), ("min", 23), ("max", 23), ("norm", 23)]:
        found = getattr(one, name)(dim)
        assert (found.shape, found.item()) == ((), want)
    assert one.var(dim, correction=0).item() == 0
    assert torch.mean(one).item() == 23
    with pytest.raises(SelectionError, match="single value"):
        one.mean(1)


def test_reducing_units_of_each_row_is_lazy_and_keeps_examples_and_positions() -> None:
    """`x.norm(-1)` reads nothing, has the lengths of `x`, and streams on."""
    cache = small_cache()
    x = cache["resid_out_0"]
    norms = x.norm(-1)
    assert isinstance(norms, LazyTensor)
    assert cache.io.bytes == 0
    assert norms.lengths.tolist() == x.lengths.tolist()
    want = torch.arange(12.0).double().view(6, 2).square().sum(1).sqrt()
    torch.testing.assert_close(norms.rows.load(), want, rtol=1e-15, atol=0)
    torch.testing.assert_close(norms.mean(), want.mean(), rtol=1e-15, atol=0)
    assert norms[1, 2].item() == want[4].item()
    for name in ("all", "any", "argmax", "argmin", "count_nonzero", "median"):
        assert getattr(x, name)(-1).shape == norms.shape
    assert x.median(-1, keepdim=True).dtype == torch.float32
    quarter = x.rows.load()[:, 0].double() + 0.25
    torch.testing.assert_close(x.quantile(0.25, -1).rows.load(), quarter)
    with pytest.raises(SelectionError, match="one at a time"):
        x.quantile([0.25, 0.5], -1)


def test_numpy_gets_numbers_also_of_each_row(x) -> None:
    """A numpy function is an explicit question: numbers, not another lazy tensor."""
    assert isinstance(np.mean(x, axis=-1), torch.Tensor)
    assert np.argmax(x, axis=0).tolist() == DENSE.argmax(0).tolist()
    assert np.all(x, axis=(0, 1)).tolist() == DENSE.bool().all(0).all(0).tolist()
    assert bool(np.any(x))
