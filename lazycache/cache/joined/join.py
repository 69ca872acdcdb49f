"""Several tensors one behind the other, along their first dimension, without a copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.joined.joined_reader import JoinedReader
from lazycache.cache.joined.joined_rows import dense_lead, joined_maps, run_shifts
from lazycache.cache.joined.memory_reader import from_tensor
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.examples import ExampleMap
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.selection import Dense, Grid, Lead
from lazycache.cache.tables.row_origins import Origin
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.codec.dtypes import of_torch
from lazycache.errors import SelectionError
from lazycache.types import EXAMPLES

if TYPE_CHECKING:
    from lazycache.cache.joined.joined_ragged import JoinedRaggedReader


def join(parts: Sequence[LazyTensor | RaggedTensor | torch.Tensor]) -> LazyTensor | RaggedTensor:
    """Return tensors one behind the other, as `torch.cat` along the first dimension does.

    Examples keep their ids and may differ in length, also from part to part; runs of different
    parts are different runs. Selections can be joined too, and tensors in memory. Dtypes are
    promoted as by `torch.cat`, when values are read. Ragged tensors are joined with each other.

    Cost: nothing is read and no value copied, also later: reading rows reads them where they are.
    Joining what was joined joins its parts.

    Raises:
        SelectionError: no parts; their rows differ in shape, or their leading dimensions do not
            agree; they are on different devices.

    Example:
        >>> from lazycache.samples import small_cache
        >>> x = small_cache()["resid_out_0"]
        >>> both = join([x, x[1:]])
        >>> both.lengths.tolist(), both[3, 0].load()
        ([2, 3, 1, 3, 1], tensor([4., 5.]))
    """
    if not parts:
        raise SelectionError("nothing to join: give one tensor at least.")
    if any(isinstance(part, RaggedTensor) for part in parts):
        from lazycache.cache.joined.joined_ragged import join_ragged

        return join_ragged(parts)
    tensors = [part for one in _lazily(parts) for part in _parts_of(one)]
    if len(tensors) == 1:
        return tensors[0]
    _check(tensors)
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    return _joined([x if x.dtype == dtype else x.to(dtype) for x in tensors])


def _lazily(parts: Sequence[Any]) -> list[LazyTensor]:
    lazy = [part for part in parts if isinstance(part, LazyTensor)]
    lead = lazy[0].lead_ndim if lazy else 1
    name = lazy[0].site if lazy else "tensor"
    for number, part in enumerate(parts):
        if not isinstance(part, (LazyTensor, torch.Tensor)):
            raise SelectionError(
                f"part {number} is a {type(part).__name__}: lazy tensors and tensors are joined, "
                "torch.from_numpy(array)."
            )
    return [
        part if isinstance(part, LazyTensor) else from_tensor(part, name=name, lead_ndim=lead)
        for part in parts
    ]


def _parts_of(x: LazyTensor) -> list[LazyTensor]:
    """Return the parts of what was joined, if all of it is selected; else itself."""
    reader = x.source.reader
    if not isinstance(reader, JoinedReader) or x.units is not None or not _is_whole(x, reader):
        return [x]
    return [part.to(dtype=x.dtype, device=x.device) for part in reader.parts]


def _is_whole(x: LazyTensor, reader: JoinedReader) -> bool:
    lead = x.known_lead
    if lead is None:
        return True
    if isinstance(lead, Grid):
        return lead.is_whole and lead.map is x.source.examples()
    return isinstance(lead.rows, range) and lead.rows == range(reader.rows.total)


def _check(tensors: Sequence[LazyTensor]) -> None:
    first = tensors[0]
    for number, x in enumerate(tensors):
        if x.row_shape != first.row_shape or x.lead_ndim != first.lead_ndim or not x.lead_ndim:
            raise SelectionError(
                f"part {number} cannot be joined behind part 0: rows of shape {list(x.row_shape)} "
                f"with {x.lead_ndim} leading dimensions, and of shape {list(first.row_shape)} with "
                f"{first.lead_ndim}. Parts have one leading dimension at least, and their rows one "
                f"shape: {x!r}."
            )
        if x.device != first.device:
            raise SelectionError(
                f"part {number} is on {x.device}, part 0 on {first.device}: bring them to one "
                "device, .to(device)."
            )


def _joined(tensors: Sequence[LazyTensor]) -> LazyTensor:
    named = next((x for x in tensors if not _is_dense(x)), tensors[0])
    known = of_torch(named.dtype)
    spec = replace(
        named.source.spec,
        dtype=known.name,
        shape=named.row_shape,
        row_bytes=math.prod(named.row_shape) * known.itemsize,
    )
    reader = JoinedReader(tensors, spec)
    source = Source(
        reader,
        spec,
        urls_of(tensors),
        reader.examples,
        min(x.budget_bytes for x in tensors),
        called=_called(tensors),
        origins=origins_of(tensors, reader),
    )
    device = None if named.device.type == "cpu" else named.device
    return LazyTensor(source, lead=_lead(tensors, named, reader), device=device)


def _lead(tensors: Sequence[LazyTensor], named: LazyTensor, reader: JoinedReader) -> Lead | None:
    if not _is_dense(named):
        return None  # all examples, whose map is built when it is first asked for
    shapes = [tuple(x.lead.shape) for x in tensors]
    if len({shape[1:] for shape in shapes}) == 1:
        return dense_lead(shapes, reader.rows.total)
    if named.lead_ndim != _POSITIONS:
        raise SelectionError(f"leading dimensions {shapes} differ in more than the first.")
    examples = reader.examples()
    return Grid(examples, range(len(examples)))


_POSITIONS = 2
"""Dimensions of examples by positions."""


def _is_dense(x: LazyTensor) -> bool:
    if x.known_lead is None:
        return x.source.spec.table == EXAMPLES
    return isinstance(x.known_lead, Dense)


def _called(tensors: Sequence[LazyTensor]) -> Callable[[], ExampleMap] | None:
    """Return what gives the examples whose rows were called, where all parts are whole."""
    called = [x.source.called for x in tensors if x.known_lead is None]
    if len(called) < len(tensors) or None in called:
        return None

    def give() -> ExampleMap:
        maps = [one() for one in called if one is not None]
        runs = run_shifts([x.source.examples() for x in tensors])
        return joined_maps(maps, np.zeros_like(runs), runs=runs)

    return give


def urls_of(parts: Sequence[LazyTensor | RaggedTensor]) -> str:
    """Return where parts are, for people."""
    urls = list(dict.fromkeys(part.source.url for part in parts))
    return urls[0] if len(urls) == 1 else f"{urls[0]} and {len(urls) - 1} more"


def origins_of(
    parts: Sequence[LazyTensor | RaggedTensor], reader: JoinedReader | JoinedRaggedReader
) -> Callable[[np.ndarray], Sequence[Origin]] | None:
    """Return what tells of joined rows which rows of which tables they are."""
    if any(part.source.origins is None for part in parts):
        return None
    return partial(_tell, reader)


def _tell(reader: JoinedReader | JoinedRaggedReader, numbers: np.ndarray) -> list[Origin]:
    # no closure: it is pickled with the tensor
    found: list[Origin] = []
    for number, members, mine in reader.rows.split(numbers):
        of_part = reader.parts[number].source.origins
        assert of_part is not None, "looked at before"
        at = np.arange(len(numbers))[members]
        found += [replace(one, members=at[one.members]) for one in of_part(as_array(mine))]
    return found
