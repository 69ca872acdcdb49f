"""lazycache.cache.torch_functions: torch functions take lazy tensors."""

import pytest
import torch
from cache_helpers import Dataset, same_bits

from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.storage.open_store import open_store


@pytest.fixture
def pair():
    """A lazy tensor of (4, 6, 8) whose budget is less than its size, and what it holds."""
    dataset = Dataset(open_store("memory://functions", create=True, storage_options=None))
    values = torch.randn(24, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    dataset.commit([(i, 6) for i in range(4)], {"s": values}, run="main")
    return dataset.cache(budget_bytes=200)["s"], values.view(4, 6, 8)


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


def test_other_functions_load_within_the_budget(pair) -> None:
    """Any torch function works on what fits, also several lazy tensors and lists of them."""
    x, values = pair
    assert same_bits(torch.relu(x[0]), torch.relu(values[0]))
    assert same_bits(torch.stack([x[0], x[1]]), values[:2])
    assert same_bits(torch.matmul(x[0], values[1].T), values[0] @ values[1].T)
    assert torch.equal(torch.mean(x[0], 0, keepdim=True), values[0].mean(0, keepdim=True))


def test_what_does_not_fit_is_refused_with_its_size(pair) -> None:
    """No function silently reads more than the budget."""
    x, _ = pair
    with pytest.raises(MemoryBudgetError, match=r"'relu' needs 384 bytes.*200 are allowed"):
        torch.relu(x)
    with pytest.raises(MemoryBudgetError, match="288 bytes"):
        torch.stack([x[0], x[1], x[2]])


def test_ragged_has_no_dense_meaning() -> None:
    """A torch function on examples of different length says how to make them one tensor."""
    dataset = Dataset(open_store("memory://rf", create=True, storage_options=None))
    dataset.commit([(0, 2), (1, 1)], {"s": torch.ones(3, 2)})
    with pytest.raises(SelectionError, match="padded"):
        torch.relu(dataset.cache()["s"])
