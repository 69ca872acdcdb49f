"""Values that caches hold, to be made up by hypothesis and compared with what was read again."""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.codec.dtypes import DTYPES


def same(left, right) -> bool:
    """Whether two values are of one type and bit for bit equal."""
    return type(left) is type(right) and _alike(left, right)


def _alike(left, right) -> bool:
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, ValueWithInfo):
        return same(left.value(), right.value()) and same(left.info(), right.info())
    if isinstance(left, torch.Tensor | np.ndarray | np.generic):
        return left.dtype == right.dtype and left.shape == right.shape and _raw(left) == _raw(right)
    # of floats the words too, which tell zeros by their sign and are the same of all nan
    return repr(left) == repr(right)


def _raw(values) -> bytes:
    if not isinstance(values, torch.Tensor):
        return values.tobytes()
    plain = torch.view_as_real(values) if values.is_complex() else values
    flat = plain.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""


def loaded(value):
    """A lazy tensor as the tensor it is."""
    return value.load() if isinstance(value, LazyTensor) else value


@st.composite
def tensors(draw):
    """A tensor of any dtype and up to three dimensions, perhaps empty or not contiguous."""
    dtype = draw(st.sampled_from([d.torch for d in DTYPES] + [torch.complex64]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    seed = draw(st.integers(0, 255))
    count = math.prod(shape) * dtype.itemsize
    raw = torch.arange(count, dtype=torch.int64) * 37 + seed
    raw = (raw % (2 if dtype == torch.bool else 256)).to(torch.uint8)
    tensor = raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
    return draw(st.sampled_from([tensor, tensor.transpose(0, -1)])) if tensor.ndim > 1 else tensor


@st.composite
def arrays(draw):
    """A numpy array, also of dtypes that torch lacks, perhaps reversed."""
    dtype = draw(st.sampled_from(["<f4", ">i2", "<U3", "|S2", "<M8[ns]", "<c16", "|b1", "<u8"]))
    shape = draw(st.lists(st.integers(0, 3), max_size=2))
    array = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    return array[::-1] if array.ndim and draw(st.booleans()) else array


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=())),  # lone surrogates too
    st.binary(max_size=8),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([torch.float16, torch.device("cuda:1"), torch.Size([2, 3])]),
    st.sampled_from([np.float32(1.5), np.int64(-1), np.bool_(True), np.str_("ab")]),
)
keys = st.one_of(st.text(max_size=3), st.integers(), st.tuples(st.text(max_size=2), st.integers()))
trees = st.recursive(
    st.one_of(scalars, tensors(), arrays()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.tuples(inner, inner).map(lambda pair: ValueWithInfo(*pair)),
    ),
    max_leaves=8,
)
