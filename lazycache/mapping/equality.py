"""Whether two caches hold the same: what is known first, numbers last and a block at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.cache.values.joining import Lazy
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import StoredSite

BLOCK_BYTES = 16 << 20
"""Values of either side that are in memory at a time."""

_TENSORS = (torch.Tensor, *Lazy)


def same_entry(a: Segments, b: Segments) -> bool:
    """Whether two keys hold equal values. Of the same sites nothing is read."""
    return _same_sites(a, b) or same(a.value(), b.value())


def _same_sites(a: Segments, b: Segments) -> bool:
    if (
        not a.is_stored
        or not b.is_stored
        or len(a.parts) != len(b.parts)
        or a.has_info
        or b.has_info
    ):
        return False
    return all(_same_site(x, y) for x, y in zip(a.stored, b.stored, strict=True))


def _same_site(a: StoredSite, b: StoredSite) -> bool:
    return a.name == b.name and a.dtype == b.dtype and same_rows(a.sites, b.sites)


def same_rows(a: StoredSites, b: StoredSites) -> bool:
    """Whether two opened datasets are one, at one version, with the same rows."""
    if a is b:
        return True
    identities = [(s.url, s.version, s.snapshot.identity.uuid) for s in (a, b)]
    return identities[0] == identities[1] and a.restriction == b.restriction


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal: of one kind, shape and dtype, and number for number.

    NaN is equal to NaN. On which device numbers are does not matter.

    Cost: compares shapes and dtypes before numbers; lazy ones are read block by block, in the order
    of their first dimension, up to the first that differs.

    Example:
        >>> same([torch.ones(2), "a"], [torch.ones(2), "a"]), same(torch.ones(2), torch.ones(3))
        (True, False)
    """
    if a is b:
        return True
    if isinstance(a, ValueWithInfo) or isinstance(b, ValueWithInfo):
        return type(a) is type(b) and same(a.info(), b.info()) and same(a.value(), b.value())
    if isinstance(a, _TENSORS) or isinstance(b, _TENSORS):
        return _same_tensors(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and _same_arrays(a, b)
    return _same_parts(a, b)


def _same_parts(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    # NaN is the only number that differs from itself
    return bool(a == b) or bool(a != a and b != b)  # noqa: PLR0124


def _same_arrays(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def _same_tensors(a: Any, b: Any) -> bool:
    if not isinstance(a, _TENSORS) or not isinstance(b, _TENSORS):
        return False
    if a.dtype != b.dtype or a.ndim != b.ndim:
        return False
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return _same_numbers(a, b)
    lazy: Any = a if isinstance(a, Lazy) else b
    return _same_sizes(a, b) and all(
        _same_numbers(_block(a, part), _block(b, part)) for part in _parts(lazy)
    )


def _same_numbers(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.layout != b.layout:
        return False
    if a.is_nested or a.layout != torch.strided:
        return _same_dense(a, b)
    a, b = a.detach().cpu(), b.detach().cpu()
    if a.dtype.itemsize == 1 and a.dtype.is_floating_point:  # torch compares no float8
        a, b = a.float(), b.float()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())  # noqa: PLR0124


def _same_dense(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.is_nested:
        return all(map(_same_numbers, a.unbind(), b.unbind()))
    return _same_numbers(a.to_dense(), b.to_dense())


def _same_sizes(a: Any, b: Any) -> bool:
    """Whether two tensors, one of them lazy, have one shape, also where examples differ in it."""
    return all(map(np.array_equal, _sizes(a), _sizes(b)))


def _sizes(x: Any) -> tuple[Any, ...]:
    """Return the shape, and lengths and widths of examples that have their own."""
    if not x.ndim or isinstance(x, torch.Tensor) or not x.is_ragged:
        return tuple(x.shape), (), ()
    widths = x.widths if isinstance(x, RaggedTensor) and len(x.shape) > 1 else ()
    return tuple(x.shape), x.lengths, widths


def _parts(x: LazyTensor | RaggedTensor) -> list[Any]:
    """Return slices of the first dimension, each of a bounded size."""
    if not x.ndim:
        return [...]
    entries = x.shape[0]
    step = max(1, BLOCK_BYTES * entries // max(1, x.nbytes))
    return [slice(at, at + step) for at in range(0, entries, step)]


def _block(x: Any, part: Any) -> torch.Tensor:
    block: torch.Tensor = x[part]
    return block if isinstance(block, torch.Tensor) else x[part].to("cpu").padded()
