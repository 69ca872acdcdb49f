"""The dtype table and the step between tensors and bytes."""

import mmap

import numpy as np
import pytest
import torch
from codec_helpers import random_tensor

from lazycache.codec.dtypes import DTYPES, as_bytes, by_name, from_buffer, of_tensor, of_torch
from lazycache.errors import UnsupportedDtypeError

NAMES = [dtype.name for dtype in DTYPES]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_comes_back_from_its_bytes_bit_for_bit(name):
    """Every dtype, NaN payloads included, is the same bytes after a round trip."""
    dtype = by_name(name)
    tensor = random_tensor(5, (3, 2), dtype.torch)
    back = from_buffer(bytearray(as_bytes(tensor)), dtype, (5, 3, 2))
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert bytes(as_bytes(back)) == bytes(as_bytes(tensor))


@pytest.mark.parametrize("name", NAMES)
def test_the_table_agrees_with_torch_and_numpy(name):
    """Names, sizes and numpy twins in the table are those of the libraries."""
    dtype = by_name(name)
    assert str(dtype.torch) == f"torch.{name}"
    assert dtype.itemsize == torch.empty((), dtype=dtype.torch).itemsize
    assert of_torch(dtype.torch) is dtype
    if dtype.numpy is not None:
        assert torch.empty(0, dtype=dtype.torch).numpy().dtype == dtype.numpy == dtype.widened


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes_unknown_to_numpy_widen_exactly(name):
    """float32 holds every finite value of the dtypes that numpy lacks."""
    dtype = by_name(name)
    assert dtype.numpy is None
    every = torch.arange(256 ** min(dtype.itemsize, 2)).to(torch.int32)
    bits = every.to(torch.uint8 if dtype.itemsize == 1 else torch.uint16)
    values = bits.view(dtype.torch)
    finite = values.float().isfinite()
    wide = torch.from_numpy(values.float().numpy().astype(dtype.widened))
    narrow = wide.to(dtype.torch)
    assert torch.equal(narrow[finite].view(torch.uint8), values[finite].view(torch.uint8))


def test_bytes_are_a_view_of_the_tensor():
    """Taking the bytes copies nothing: a later write is seen through them."""
    tensor = torch.zeros(4, dtype=torch.bfloat16)
    view = as_bytes(tensor)
    tensor.fill_(1)
    assert view.tobytes() == b"\x80\x3f" * 4
    assert view.nbytes == 8


def test_a_tensor_over_a_writable_buffer_shares_it():
    """A writable buffer is not copied: writing to the tensor writes to it."""
    buffer = bytearray(8)
    from_buffer(buffer, by_name("float32"), (2,)).fill_(1.0)
    assert bytes(buffer) == b"\x00\x00\x80\x3f" * 2


def test_a_tensor_over_a_private_map_leaves_the_file_alone(tmp_path):
    """Writing to a tensor over an ACCESS_COPY map never reaches the file."""
    path = tmp_path / "values"
    path.write_bytes(bytes(64))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensor = from_buffer(mapped, by_name("int64"), (8,))
    tensor.fill_(7)
    assert tensor.tolist() == [7] * 8
    assert path.read_bytes() == bytes(64)


def test_read_only_bytes_are_copied_once():
    """A tensor over bytes may be written to without touching them."""
    data = bytes(8)
    from_buffer(data, by_name("int32"), (2,)).fill_(-1)
    assert data == bytes(8)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_tensors_without_elements_have_no_bytes(shape):
    """An empty tensor keeps its shape and dtype."""
    assert as_bytes(torch.empty(shape, dtype=torch.bfloat16)).nbytes == 0
    back = from_buffer(b"", by_name("bfloat16"), shape)
    assert (back.shape, back.dtype) == (shape, torch.bfloat16)


def test_a_short_buffer_is_refused():
    """A buffer with fewer bytes than the shape needs is an error, not a short tensor."""
    with pytest.raises(ValueError, match="12 bytes are needed"):
        from_buffer(bytes(11), by_name("float32"), (3,))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, 2).to_sparse(),
    ],
    ids=["complex", "sparse"],
)
def test_what_cannot_be_stored_exactly_is_refused(tensor):
    """Complex and sparse tensors raise an error that says what to do."""
    with pytest.raises(UnsupportedDtypeError, match=r"cannot be stored.*(Convert|to_dense)"):
        of_tensor(tensor)


def test_quantised_dtypes_are_refused():
    """A quantised dtype is no dtype of plain values; the error says how to make it one."""
    with pytest.raises(UnsupportedDtypeError, match=r"qint8 cannot be stored.*dequantize"):
        of_torch(torch.qint8)


def test_an_unknown_name_lists_what_is_known():
    """A dtype name from a newer version is an error that lists the known ones."""
    with pytest.raises(UnsupportedDtypeError, match=r"'float4'.*bfloat16"):
        by_name("float4")


def test_numpy_arrays_of_the_same_bytes_are_equal():
    """The numpy twin of a dtype reads the same values from the same bytes."""
    tensor = torch.tensor([1.5, -2.0], dtype=torch.float16)
    assert np.frombuffer(as_bytes(tensor), by_name("float16").numpy).tolist() == [1.5, -2.0]


def test_a_single_element_of_a_larger_tensor_has_its_own_bytes():
    """One element of a strided tensor counts as contiguous; its bytes are its own."""
    whole = torch.arange(24, dtype=torch.bfloat16).reshape(3, 8)
    assert bytes(as_bytes(whole[1:2, 3])) == bytes(as_bytes(whole[1:2, 3].clone()))
