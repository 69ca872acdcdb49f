"""lazycache.cache.operators: arithmetic and comparison, as torch does them."""

import operator

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, same_bits, small_cache

from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.storage.open_store import open_store

BINARY = [
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.add,
    operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
]  # fmt: skip


@pytest.fixture
def pair():
    """A lazy tensor of (2, 3, 2), of which half fits the budget, and what it holds."""
    dataset = Dataset(open_store("memory://operators", create=True, storage_options=None))
    values = torch.arange(1.0, 13.0).reshape(6, 2)
    dataset.commit([(0, 3), (1, 3)], {"s": values})
    return dataset.cache(budget_bytes=24)["s"], values.reshape(2, 3, 2)


@pytest.mark.parametrize("function", BINARY, ids=lambda f: f.__name__)
def test_operators_are_those_of_torch(pair, function) -> None:
    """With numbers and tensors on either side, and bit for bit."""
    x, values = pair[0][0], pair[1][0]
    for other in (2, 2.5, torch.full((2,), 3.0)):
        assert same_bits(function(x, other), function(values, other))
        assert same_bits(function(other, x), function(other, values))
    assert same_bits(function(x[0], x[1]), function(values[0], values[1]))
    assert same_bits(function(x, np.float32([2, 4])), function(values, torch.tensor([2.0, 4.0])))


def test_the_other_operators(pair) -> None:
    """Negation, absolute value, matrix product, membership."""
    x, values = pair[0][0], pair[1][0]
    assert same_bits(-x, -values)
    assert same_bits(abs(x), values)
    assert same_bits(x @ values.T, values @ values.T)
    assert same_bits(values @ x[:2].load().T, values @ values[:2].T)
    assert 3 in x
    assert 99 not in x


def test_operators_load_within_the_budget(pair) -> None:
    """No operator silently reads more than the budget, and none answers without reading."""
    x, _ = pair
    for function in (lambda: x == 0, lambda: x + 1, lambda: 1 - x, lambda: -x):
        with pytest.raises(MemoryBudgetError, match=r"needs 48 bytes.*24 are allowed"):
            function()
    with pytest.raises(SelectionError, match="padded"):
        _ = small_cache()["resid_out_0"] > 0


def test_what_is_no_number_is_answered_as_python_does(pair) -> None:
    """Compared with None or a word it is unequal; it cannot be added to a word."""
    x, _ = pair
    assert (x == None) is False  # noqa: E711
    assert (x != "a") is True
    with pytest.raises(TypeError, match="unsupported operand"):
        x + "a"


def test_a_dictionary_tells_them_apart_without_reading(pair) -> None:
    """Hash is identity, as that of torch tensors; two caches are compared by identity too."""
    x, _ = pair
    assert {x: 1, x[0]: 2}[x] == 1
    cache = small_cache()
    assert cache == cache  # noqa: PLR0124
    assert cache != small_cache()
    assert len({cache, small_cache()}) == 2
    assert cache.io.bytes == 0


def test_one_value_is_a_number(pair) -> None:
    """`.item()`, float() and int() read one value; of more they are refused."""
    x, _ = pair
    assert (x[1, 2, 0].item(), float(x[1, 2, 0]), int(x[0, 0, 1])) == (11.0, 11.0, 2)
    assert x[:1, :1, 0].item() == 1
    assert isinstance(x.to(torch.int64)[0, 0, 0].item(), int)
    with pytest.raises(SelectionError, match="not one value"):
        x[0].item()
    with pytest.raises(SelectionError, match="not one value"):
        float(x[0, :0])
