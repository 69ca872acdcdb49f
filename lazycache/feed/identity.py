"""What tells the rows that are fed from others: plain texts, which a state compares.

Absolute rows of a dataset never get other values, so which dataset, which rows and what is taken of
them is enough: later versions, with more sites or values, do not matter. Of what is computed, the
steps count: functions by their names, numbers and tensors by their values.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.computing.derived_reader import DerivedReader
from lazycache.cache.computing.operands import RowsOf
from lazycache.cache.computing.program import Leaf, Node, leaves, steps
from lazycache.cache.computing.shared_operands import Number, PerRow, RowsFor, Shared
from lazycache.cache.joined.joined_reader import JoinedReader
from lazycache.cache.reading.address import Address
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.feed.row_numbers import RowNumbers

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


def of_values(x: LazyTensor) -> str:
    """Return what is taken of each row of a tensor, whichever rows those are.

    Cost: reads no shard. Tensors that it was computed with are gone through once.

    Example:
        >>> from lazycache.samples import small_cache
        >>> cache = small_cache()
        >>> x = cache["resid_out_0"]
        >>> [of_values(y).split(",")[0] for y in (x, x[..., 0], x * 2)]
        ['stored float32', 'stored float32 units 6522df69', 'computed float32']
        >>> [of_values(x * 2) == of_values(cache["resid_out_0"] * n) for n in (2, 3)]
        [True, False]
    """
    kind = str(x.dtype).removeprefix("torch.")
    units = "" if x.units is None else f" units {_number(x.units)}"
    told = list(_told(x))
    if len(told) == 1:
        return f"{told[0]} {kind}{units}"
    crc = zlib.crc32("\n".join(told[1:]).encode())
    return f"{told[0]} {kind}{units}, {crc:08x}"


def datasets_of(x: LazyTensor) -> set[str]:
    """Return the datasets that the values of a tensor come from, by their uuid."""
    return {f"{one.uuid}" for one in _addresses(x)}


def versions_of(x: LazyTensor) -> set[str]:
    """Return the same with the versions that are open."""
    return {f"{one.uuid} version {one.version}" for one in _addresses(x)}


def of_norm(norm: Any) -> Any:
    """Return a norm as JSON holds it: its name, its numbers, or the name of a function.

    Example:
        >>> of_norm("scale"), of_norm({"a": None, "b": abs})
        ('scale', {'a': None, 'b': 'builtins.abs'})
    """
    if norm is None or isinstance(norm, str):
        return norm
    if isinstance(norm, Mapping):
        return {str(name): of_norm(one) for name, one in norm.items()}
    tensors = getattr(norm, "tensors", None)
    if tensors is not None:
        return f"Norm {' '.join(_of_tensor(one) for one in tensors().values())}"
    return _called(norm)


def _told(x: LazyTensor) -> Iterator[str]:
    """Yield what a tensor is, and what it is made of."""
    reader = x.source.reader
    if isinstance(x.source.reopen, Address):
        yield "stored"
    elif isinstance(reader, DerivedReader):
        yield "computed"
        for node in steps(reader.root):
            yield _called(node.function)
            yield from map(_operand, node.args)
    elif isinstance(reader, JoinedReader):
        yield "joined"
        for part in reader.parts:
            yield _tensor(part, part.lead.flat())
    else:
        yield type(reader).__name__


def _operand(operand: Leaf | Node) -> str:
    if isinstance(operand, RowsOf):
        return _tensor(operand.x, operand.at)
    if isinstance(operand, RowsFor):
        return _tensor(operand.x, operand.x.lead.flat())
    if isinstance(operand, Number):
        return repr(operand.number)
    if isinstance(operand, (Shared, PerRow)):
        return _of_tensor(operand.kept.tensor)
    return type(operand).__name__  # a step before, or one value that is loaded when it is used


def _tensor(x: LazyTensor, rows: Rows | None) -> str:
    uuids = " ".join(sorted(datasets_of(x)))
    at = "" if rows is None else f"{zlib.crc32(RowNumbers.of(rows).fingerprint()):08x}"
    return f"{x.site} {of_values(x)} {at} {uuids}"


def _addresses(x: LazyTensor) -> Iterator[Address]:
    reader = x.source.reader
    if isinstance(x.source.reopen, Address):
        yield x.source.reopen
    elif isinstance(reader, JoinedReader):
        for part in reader.parts:
            yield from _addresses(part)
    elif isinstance(reader, DerivedReader):
        for leaf in leaves(steps(reader.root)):
            if isinstance(leaf, (RowsOf, RowsFor)):
                yield from _addresses(leaf.x)


def _called(function: Any) -> str:
    """Return the name of a function, or of what is called like one; no address of memory."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if name is None:
        return type(function).__qualname__
    return f"{getattr(function, '__module__', None) or ''}.{name}".strip(".")


def _of_tensor(values: torch.Tensor) -> str:
    flat = values.detach().to("cpu").contiguous().reshape(-1)
    crc = zlib.crc32(flat.view(torch.uint8).numpy().data)
    return f"{str(values.dtype).removeprefix('torch.')}{list(values.shape)} {crc:08x}"


def _number(values: np.ndarray) -> str:
    crc = zlib.crc32(np.asarray(values.shape, dtype=np.int64).tobytes())
    return f"{zlib.crc32(as_array(values).astype(np.int64).tobytes(), crc):08x}"
