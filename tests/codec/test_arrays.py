"""Tensors of the model as files of their own."""

import json
import zlib

import pyarrow.parquet as pq
import pytest
import torch
from codec_helpers import READERS, random_tensor, value_bytes

from lazycache.codec.arrays import MAX_ARRAY_BYTES, check_array, write_array
from lazycache.codec.dtypes import as_bytes, by_name, from_buffer
from lazycache.errors import CaptureError, UnsupportedDtypeError


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("shape", [(1,), (7,), (4, 3), (2, 5, 8)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_an_array_is_read_back_by_offset_and_by_every_parquet_reader(
    tmp_path, reader, shape, dtype
):
    """Its file is plain Parquet of one column; its values lie in one range at the offset."""
    tensor = random_tensor(shape[0], shape[1:], by_name(dtype).torch)
    path = tmp_path / "array.parquet"
    with path.open("wb") as file:
        place = write_array("w", tensor, write=lambda buffers: file.write(b"".join(buffers)))
    data = path.read_bytes()
    raw = data[place.value_offset : place.value_offset + tensor.nbytes]
    assert (place.length, place.value_offset % 64) == (len(data), 0)
    assert place.value_crc == zlib.crc32(raw)
    back = from_buffer(raw, by_name(dtype), shape)
    assert bytes(as_bytes(back)) == bytes(as_bytes(tensor))
    table = READERS[reader](path)
    assert (table.column_names, table.num_rows) == (["value"], shape[0])
    assert value_bytes(table) == raw


def test_the_file_of_an_array_says_what_it_is(tmp_path):
    """Key-value metadata have the name, dtype and shape of the whole tensor."""
    path = tmp_path / "array.parquet"
    with path.open("wb") as file:
        write_array("head_out_1.weight", torch.zeros(2, 3, 4), write=file.writelines)
    stored = pq.ParquetFile(path).metadata.metadata
    assert json.loads(stored[b"lazycache.shape"]) == [2, 3, 4]
    assert stored[b"lazycache.array"] == b"head_out_1.weight"
    assert stored[b"lazycache.dtype"] == b"float32"


def test_a_transposed_parameter_is_stored_in_row_major_order():
    """Strides, gradients and negation flags of a tensor do not reach the file."""
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)).T
    file = bytearray()
    place = write_array("w", weight, write=lambda buffers: file.extend(b"".join(buffers)))
    assert torch.equal(
        torch.frombuffer(file, dtype=torch.float32, count=6, offset=place.value_offset),
        torch.tensor([0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
    )


@pytest.mark.parametrize(
    "tensor", [torch.zeros(()), torch.zeros(3, 0), torch.empty(MAX_ARRAY_BYTES + 1, device="meta")]
)
def test_what_no_page_holds_is_refused(tensor):
    """No dimension, no values, or more than a page holds: an error that names the array."""
    with pytest.raises(CaptureError, match="array 'w'"):
        check_array("w", tensor)


def test_an_unsupported_dtype_is_refused():
    """The dtype table decides."""
    with pytest.raises(UnsupportedDtypeError, match="complex64"):
        check_array("w", torch.zeros(2, dtype=torch.complex64))
