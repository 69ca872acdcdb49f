"""Torch functions take lazy tensors and give torch tensors."""

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.storage.open_store import open_store


@pytest.fixture
def stored():
    """The sites of a dataset of (4, 6, 8) values, whose budget is less than their size."""
    dataset = Dataset(open_store("memory://functions", create=True, storage_options=None))
    values = torch.randn(24, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    dataset.commit([(i, 6) for i in range(4)], {"s": values}, run="main")
    return StoredSites(dataset.store, dataset.snapshot, budget_bytes=200), values.view(4, 6, 8)


@pytest.fixture
def pair(stored):
    """A lazy tensor of it, and what it holds."""
    return stored[0].tensor("s"), stored[1]


@pytest.mark.parametrize("name", ["mean", "sum", "amin", "amax", "std", "var"])
@pytest.mark.parametrize("dim", [0, (0, 1), -1, None])
def test_aggregates_stream_and_keep_torchs_dtype(pair, name: str, dim) -> None:
    """Larger than the budget, yet answered: in torch's dtype, rounded once from float64."""
    x, values = pair
    function = getattr(torch, name)
    args = () if dim is None else (dim,)
    want = function(values.double(), *args).to(torch.bfloat16)
    assert same_bits(function(x, *args), want)
    if dim is not None:
        assert same_bits(function(x, dim=dim), want)
        kept = function(values.double(), dim, keepdim=True).to(torch.bfloat16)
        assert same_bits(function(x, dim, keepdim=True), kept)
        third = function(values.double(), dim, False)  # keepdim, but of var and std unbiased
        assert same_bits(function(x, dim, False), third.to(torch.bfloat16))


@pytest.mark.parametrize("function", [torch.var, torch.std])
def test_spread_is_divided_as_torch_is_told(pair, function) -> None:
    """By any of torch's names and places: unbiased, correction, behind the dimension."""
    x, values = pair
    for args, options in [
        ((False,), {}),
        ((0, False), {}),
        ((0, False, True), {}),
        ((), {"dim": 1, "unbiased": False}),
        ((0,), {"unbiased": True, "keepdim": True}),
        (((0, 1),), {"correction": 0}),
        ((), {"correction": 2.5}),
        ((), {"correction": None}),
    ]:
        want = function(values.double(), *args, **options).to(torch.bfloat16)
        assert same_bits(function(x, *args, **options), want)


def test_other_aggregates_stream_too(pair) -> None:
    """Norms, truth, counts, extremes: the tensors that torch gives, of more than the budget."""
    x, values = pair
    wide = values.double()
    norm = wide.norm(dim=0).bfloat16()
    assert same_bits(torch.norm(x, dim=0), norm)
    assert same_bits(torch.norm(x, 2, 0), norm)
    assert same_bits(torch.linalg.norm(x, dim=0), norm)
    assert same_bits(torch.linalg.vector_norm(x, 2, 0), norm)
    assert same_bits(torch.linalg.vector_norm(x, dim=(0, 1)), wide.norm(dim=(0, 1)).bfloat16())
    assert same_bits(torch.norm(x), wide.norm().bfloat16())
    assert same_bits(torch.max(x), values.max())
    assert same_bits(torch.min(x), values.min())
    positive = x > 0
    for function in (torch.all, torch.any, torch.count_nonzero):
        assert same_bits(function(positive, dim=0), function(values > 0, dim=0))
    assert same_bits(torch.argmax(x[:, 0], 0), values[:, 0].argmax(0))
    assert isinstance(torch.mean(x, -1), torch.Tensor)


def test_what_streams_is_no_other_function(pair) -> None:
    """Another order of a norm, a dtype, an extreme with places: torch's own, within the budget."""
    x, values = pair
    assert same_bits(torch.norm(x[0], 1, 0), torch.norm(values[0], 1, 0))
    assert same_bits(torch.linalg.norm(x[0].float(), 2), torch.linalg.norm(values[0].float(), 2))
    assert same_bits(torch.sum(x[0], 0, dtype=torch.float64), values[0].sum(0, dtype=torch.float64))
    assert same_bits(torch.max(x[0], 0).indices, values[0].max(0).indices)
    assert same_bits(torch.maximum(x[0], x[1]), torch.maximum(values[0], values[1]))
    with pytest.raises(MemoryBudgetError, match="'norm' needs"):
        torch.norm(x, 1, 0)


def test_what_selects_reads_what_it_selects(stored) -> None:
    """The rest may be larger than the budget; what is selected may not."""
    sites, values = stored
    x = sites.tensor("s")
    index = torch.tensor([3, 1])
    assert same_bits(torch.select(x, 0, 2), values[2])
    assert sites.io.rows == 6
    assert same_bits(torch.index_select(x[:, :3], 0, index), values[index, :3])
    assert same_bits(x[0].index_select(-1, index), values[0][:, index])
    assert same_bits(torch.narrow(x, 1, -2, 1), values[:, 4:5])
    assert same_bits(torch.narrow(x[0], 1, 1, 3), values[0, :, 1:4])
    mask = values > 1
    assert same_bits(torch.masked_select(x, mask), values[mask])
    sites.io.reset()
    with pytest.raises(MemoryBudgetError, match="'narrow' needs 288"):
        torch.narrow(x, 0, 0, 3)
    with pytest.raises(RuntimeError, match="exceeds dimension"):
        torch.narrow(x[0], 0, 5, 3)
    with pytest.raises(IndexError):
        torch.select(x[0], 0, 17)


def test_other_functions_load_within_the_budget(pair) -> None:
    """Any torch function works on what fits, also several lazy tensors and lists of them."""
    x, values = pair
    assert same_bits(torch.relu(x[0]), torch.relu(values[0]))
    assert same_bits(torch.stack([x[0], x[1]]), values[:2])
    assert same_bits(torch.cat([x[0], x[1] + 1]), torch.cat([values[0], values[1] + 1]))
    assert same_bits(torch.matmul(x[0], values[1].T), values[0] @ values[1].T)
    assert same_bits(torch.add(x[0], 1), values[0] + 1)
    assert torch.equal(torch.mean(x[0], 0, keepdim=True), values[0].mean(0, keepdim=True))
    assert np.array_equal(np.abs(x[0]), values[0].float().abs().numpy())
    assert np.allclose(np.mean(x, axis=0), values.float().mean(0).numpy(), atol=1e-6)


def test_what_does_not_fit_is_refused_with_its_size(pair) -> None:
    """No function silently reads more than the budget, and the error says what to do."""
    x, _ = pair
    with pytest.raises(MemoryBudgetError, match=r"'relu' needs 384 bytes.*200 are allowed"):
        torch.relu(x)
    with pytest.raises(MemoryBudgetError, match=r"join reads nothing\) needs 288 bytes"):
        torch.stack([x[0], x[1], x[2]])


def test_ragged_has_no_dense_meaning() -> None:
    """A torch function on examples of different length says how to make them one tensor."""
    dataset = Dataset(open_store("memory://rf", create=True, storage_options=None))
    dataset.commit([(0, 2), (1, 1)], {"s": torch.ones(3, 2)})
    with pytest.raises(SelectionError, match="padded"):
        torch.relu(StoredSites(dataset.store, dataset.snapshot).tensor("s"))
