"""Operators, numbers and arrays of lazy tensors are as torch has them."""

import operator

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.storage.open_store import open_store

BINARY = [
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.add,
    operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
]  # fmt: skip


def sites(values, extents, **options):
    dataset = Dataset(open_store("memory://operators", create=True, storage_options=None))
    dataset.commit(extents, {"s": values})
    return StoredSites(dataset.store, dataset.snapshot, **options)


@pytest.fixture
def pair():
    """A lazy tensor of (2, 3, 2), of which half fits the budget, and what it holds."""
    values = torch.arange(1.0, 13.0).reshape(6, 2)
    return sites(values, [(0, 3), (1, 3)], budget_bytes=24).tensor("s"), values.reshape(2, 3, 2)


@pytest.fixture
def patterns():
    """A ragged site of two examples, of which one fits the budget."""
    rows = [counting(2, 2), counting(2, 2), counting(2, 1)]
    return sites(rows, [(0, 2), (1, 1)], budget_bytes=32).tensor("s"), torch.stack(rows[:2], 1)


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_operators_are_lazy_and_those_of_torch(pair, function) -> None:
    """With numbers and tensors on either side, and bit for bit."""
    x, values = pair[0][0], pair[1][0]
    for other in (2, 2.5, torch.full((2,), 3.0)):
        assert isinstance(function(x, other), LazyTensor)
        assert same_bits(function(x, other).load(), function(values, other))
        assert same_bits(function(other, x).load(), function(other, values))
    assert same_bits(function(x[0], x[1]).load(), function(values[0], values[1]))
    array, tensor = np.float32([2, 4]), torch.tensor([2.0, 4.0])
    assert same_bits(function(x, array).load(), function(values, tensor))


def test_the_other_operators(pair) -> None:
    """Negation, absolute value, logic, matrix product, membership."""
    x, values = pair
    assert same_bits((-x).load(), -values)
    assert same_bits((+x).load(), values)
    assert same_bits(abs(x - 4).load(), abs(values - 4))
    low, high = (x > 2) & ~(x > 9), (values > 2) & ~(values > 9)
    assert same_bits((low | (x == 12) ^ True).load(), high | (values == 12) ^ True)
    assert same_bits((x @ values[0].T).load(), values @ values[0].T)
    assert same_bits(values[0] @ x[:2, 0].load().T, values[0] @ values[:2, 0].T)
    assert 3 in x
    assert 99 not in x
    assert "a" not in x


def test_operators_read_nothing_and_loads_mind_the_budget(pair) -> None:
    """What would be larger than the budget is never loaded by the way."""
    x, values = pair
    for lazy in (x == 0, x + 1, 1 - x, -x):
        assert lazy.shape == (2, 3, 2)
        assert lazy.load().shape == (2, 3, 2)
    with pytest.raises(MemoryBudgetError, match=r"needs 48 bytes.*24 are allowed"):
        np.asarray(x + 1)
    with pytest.raises(MemoryBudgetError, match="all rows share needs 32 bytes"):
        _ = x @ x[0, 0].map(lambda rows: rows[..., None].expand(-1, 2, 4))
    assert np.array_equal(np.asarray(x[0] + 1), (values[0] + 1).numpy())


def test_operators_of_ragged_tensors_load(patterns) -> None:
    """Within the budget, on either side, and with other lazy tensors."""
    x, values = patterns
    assert same_bits(x[0] * 2, values * 2)
    assert same_bits(torch.ones(2, 2, 2) + x[0], values + 1)
    assert same_bits(x[0] > np.float32(1), values > 1)
    assert 3 in x
    assert 77 not in x[0]
    with pytest.raises(MemoryBudgetError, match="'add' needs"):
        _ = x + 1


def test_what_is_no_number_is_answered_as_python_does(pair) -> None:
    """Compared with None or a word it is unequal; it cannot be added to a word or a list."""
    x, _ = pair
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    for other in ("a", [1, 2], {}, object()):
        with pytest.raises(TypeError, match="unsupported operand"):
            x + other


def test_a_dictionary_tells_them_apart_without_reading(pair) -> None:
    """Hash is identity, as that of torch tensors."""
    x, _ = pair
    assert {x: 1, x[0]: 2}[x] == 1
    assert len({x, x[0]}) == 2


def test_one_value_is_a_number(pair) -> None:
    """`.item()`, float() and int() read one value; of more they are refused."""
    x, _ = pair
    assert (x[1, 2, 0].item(), float(x[1, 2, 0] + 1), int(x[0, 0, 1])) == (11.0, 12.0, 2)
    assert x[:1, :1, 0].item() == 1
    assert isinstance(x.to(torch.int64)[0, 0, 0].item(), int)
    with pytest.raises(SelectionError, match="not one value"):
        x[0].item()
    with pytest.raises(SelectionError, match="not one value"):
        float(x[0, :0])
    with pytest.raises(SelectionError, match="neither true nor false"):
        bool(x == 1)
