"""The one dtype table, and the step between a tensor and its bytes, without a copy.

Values are stored as their raw bytes, so a dtype needs no encoder: what is stored is what torch
held, bit for bit, NaN payloads included. numpy lacks bfloat16 and the 8-bit floats; they are read
as float32, which holds every one of their values exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.errors import UnsupportedDtypeError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on


@dataclass(frozen=True, slots=True)
class Dtype:
    """One dtype that can be stored, and what it is called elsewhere."""

    name: str
    """Its torch name without prefix: `bfloat16`. What `SiteSpec.dtype` and the files say."""
    torch: torch.dtype
    """The torch dtype."""
    itemsize: int
    """Bytes of one value."""
    numpy: np.dtype | None
    """The same bytes in numpy; None where numpy has no such dtype."""
    widened: np.dtype
    """The numpy dtype that holds every value exactly: `numpy`, else float32."""
    duckdb: str
    """The SQL type that holds every value exactly."""


def _row(name: str, duckdb: str, *, in_numpy: bool = True) -> Dtype:
    dtype = getattr(torch, name)
    same = np.dtype(name) if in_numpy else None
    widened = same if same is not None else np.dtype("float32")
    return Dtype(name, dtype, dtype.itemsize, same, widened, duckdb)


DTYPES: tuple[Dtype, ...] = (
    _row("bool", "BOOLEAN"),
    _row("uint8", "UTINYINT"),
    _row("uint16", "USMALLINT"),
    _row("uint32", "UINTEGER"),
    _row("uint64", "UBIGINT"),
    _row("int8", "TINYINT"),
    _row("int16", "SMALLINT"),
    _row("int32", "INTEGER"),
    _row("int64", "BIGINT"),
    _row("float16", "FLOAT"),
    _row("bfloat16", "FLOAT", in_numpy=False),
    _row("float32", "FLOAT"),
    _row("float64", "DOUBLE"),
    _row("float8_e4m3fn", "FLOAT", in_numpy=False),
    _row("float8_e5m2", "FLOAT", in_numpy=False),
)
"""Every dtype that can be stored."""

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_BY_TORCH = {dtype.torch: dtype for dtype in DTYPES}


def by_name(name: str) -> Dtype:
    """Return the dtype of a stored name.

    Raises:
        UnsupportedDtypeError: there is no such dtype in the table.

    Example:
        >>> by_name("bfloat16").itemsize, by_name("bfloat16").duckdb
        (2, 'FLOAT')
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnsupportedDtypeError(f"dtype {name!r} is not known. {_advice()}") from None


def of_torch(dtype: torch.dtype) -> Dtype:
    """Return the table's row for a torch dtype.

    Raises:
        UnsupportedDtypeError: values of this dtype cannot be stored (complex, quantised).

    Example:
        >>> of_torch(torch.float16).name
        'float16'
    """
    try:
        return _BY_TORCH[dtype]
    except KeyError:
        raise UnsupportedDtypeError(f"dtype {dtype} cannot be stored. {_advice()}") from None


def of_tensor(tensor: torch.Tensor) -> Dtype:
    """Return the dtype under which a tensor is stored.

    Raises:
        UnsupportedDtypeError: the tensor is sparse, quantised, or of a dtype not in the table.

    Example:
        >>> of_tensor(torch.ones(2, dtype=torch.bool)).name
        'bool'
    """
    if tensor.layout != torch.strided:
        raise UnsupportedDtypeError(
            f"a tensor of layout {tensor.layout} cannot be stored: call .to_dense() first."
        )
    return of_torch(tensor.dtype)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    r"""Return the bytes of a contiguous CPU tensor, in row-major order.

    Cost: nothing is copied; the view keeps the tensor's storage alive.

    Raises:
        UnsupportedDtypeError: a dtype or layout that cannot be stored.

    Example:
        >>> as_bytes(torch.tensor([1, 2], dtype=torch.int16)).tobytes()
        b'\x01\x00\x02\x00'
    """
    of_tensor(tensor)
    assert tensor.device.type == "cpu", "bytes are taken on the CPU"
    assert tensor.is_contiguous(), "only a contiguous tensor has one range of bytes"
    # a view as bytes: numpy has no bfloat16, and every dtype is bytes
    plain = tensor.detach().resolve_neg()
    # strided anew: a single element is contiguous whatever its stride, but no view as bytes
    flat = plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)
    return flat.numpy().data


def from_buffer(buffer: Buffer, dtype: Dtype, shape: tuple[int, ...]) -> torch.Tensor:
    r"""Return a tensor over the first bytes of a buffer.

    Cost: nothing is copied where the buffer is writable (a bytearray, an `ACCESS_COPY` map); the
    tensor keeps it alive. Bytes that may not be written are copied once, since torch tensors are
    always writable.

    Raises:
        ValueError: the buffer is shorter than the shape.

    Example:
        >>> from_buffer(bytearray(b"\x00\x3f\x80\x3f"), by_name("bfloat16"), (2,))
        tensor([0.5000, 1.0000], dtype=torch.bfloat16)
    """
    view = memoryview(buffer).cast("B")
    count = math.prod(shape)
    need = count * dtype.itemsize
    if view.nbytes < need:
        raise ValueError(f"{need} bytes are needed for {shape} of {dtype.name}, not {view.nbytes}")
    if not count:
        return torch.empty(shape, dtype=dtype.torch, device="cpu")
    if view.readonly:
        view = memoryview(bytearray(view[:need]))
    return torch.frombuffer(view, dtype=dtype.torch, count=count).reshape(shape)


def _advice() -> str:
    names = ", ".join(dtype.name for dtype in DTYPES)
    return (
        f"Can be stored: {names}. Convert first, for example tensor.dequantize(), or "
        "torch.view_as_real(tensor) for complex values."
    )
