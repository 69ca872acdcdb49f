"""lazycache.cache.computing.torch_names: what a user of torch expects a tensor to answer to."""

import numpy as np
import pytest
import torch
from cache_helpers import Dataset, counting, same_bits, small_cache

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.codec.dtypes import DTYPES
from lazycache.errors import MemoryBudgetError, SelectionError
from lazycache.samples import pattern_cache
from lazycache.storage.open_store import open_store


def square(dtype: torch.dtype = torch.float32, **options) -> tuple[LazyTensor, torch.Tensor]:
    """Return a lazy tensor of two examples of three rows, and its values."""
    dataset = Dataset(open_store("memory://square", create=True, storage_options=None))
    values = counting(6, 4, dtype=dtype)
    dataset.commit([(0, 3), (1, 3)], {"s": values})
    return dataset.cache(**options)["s"], values.reshape(2, 3, 4)


def test_sizes_are_those_of_a_tensor() -> None:
    """size, dim, numel and their like, without reading."""
    x, want = square()
    assert (x.size(), x.size(-1), x.dim(), x.numel()) == (want.size(), 4, 3, want.numel())
    assert (x.element_size(), x.is_floating_point(), x.is_cuda) == (4, True, False)
    assert not x.requires_grad
    assert (len(x), x.long().is_floating_point()) == (2, False)
    with pytest.raises(SelectionError, match="dimension 3 is out of range"):
        x.size(3)
    ragged = small_cache()["resid_out_0"]
    assert (ragged.numel(), ragged.size(1)) == (12, 3)


def test_conversions_are_lazy() -> None:
    """Other dtypes and devices by torch's names give lazy tensors."""
    x, want = square()
    for name in ("double", "half", "bfloat16", "float", "long", "int", "bool"):
        converted = getattr(x, name)()
        assert isinstance(converted, LazyTensor)
        assert same_bits(converted.load(), getattr(want, name)())
    assert x.cuda(1).device == torch.device("cuda", 1)
    assert x.cuda().device.type == x.cuda("cuda").device.type == "cuda"
    assert x.cuda().cpu().device.type == "cpu"
    for same in (x.clone(), x.detach(), x.contiguous()):
        assert same_bits(same.load(), want)
    assert pattern_cache()["pattern_0"].half().dtype == torch.float16


def test_other_methods_of_torch_load() -> None:
    """`x.reshape` and the rest are torch functions: within the budget, and never in place."""
    x, want = square()
    assert same_bits(x.reshape(6, 4), want.reshape(6, 4))
    assert same_bits(x.permute(2, 0, 1).contiguous(), want.permute(2, 0, 1).contiguous())
    assert same_bits(x.softmax(-1), want.softmax(-1))
    assert same_bits(x.T.contiguous(), want.permute(2, 1, 0).contiguous())
    assert same_bits(x.mT.contiguous(), want.mT.contiguous())
    assert np.transpose(x).shape == (4, 3, 2)
    with pytest.raises(AttributeError, match=r"never changes.*x\.load\(\)\.zero_"):
        x.zero_()
    for name in ("grad_fn", "_version", "no_such_name"):
        with pytest.raises(AttributeError, match=name):
            getattr(x, name)
    small, _ = square(budget_bytes=10)
    with pytest.raises(MemoryBudgetError, match="reshape"):
        small.reshape(-1)


def test_lists_of_numbers() -> None:
    """`tolist` is as deep as the shape, and ragged where examples are."""
    x, want = square()
    assert x.tolist() == want.tolist()
    assert x[0, 0, 1].tolist() == want[0, 0, 1].item()
    assert [len(e) for e in small_cache()["resid_out_0"].tolist()] == [2, 3, 1]
    assert pattern_cache()["pattern_0"][:, 0].tolist()[0] == [[1, 0], [0.5, 0.5]]


@pytest.mark.parametrize("dtype", [row.torch for row in DTYPES], ids=str)
def test_dlpack_hands_over_the_values(dtype: torch.dtype) -> None:
    """Torch and numpy import it, in the dtypes for which they do so of a tensor."""
    x, want = square(dtype)
    assert same_bits(torch.from_dlpack(x), torch.from_dlpack(want))
    try:
        array = np.from_dlpack(want)
    except (BufferError, RuntimeError, TypeError):
        return
    assert np.array_equal(np.from_dlpack(x), array)


def test_dlpack_keeps_to_the_budget() -> None:
    """A view for another library is an implicit load."""
    x, _ = square(budget_bytes=10)
    assert x.__dlpack_device__() == (1, 0)
    with pytest.raises(MemoryBudgetError, match="a view of it needs 96 bytes"):
        torch.from_dlpack(x)
