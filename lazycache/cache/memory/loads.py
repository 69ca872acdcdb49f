"""Reading what a lazy tensor selects, as its methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from lazycache.cache.memory.loading import Side, load, mask, nested, padded, to_numpy
from lazycache.cache.selecting.plan import blocks

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

CHUNK_BYTES = 64 << 20
"""Default size of the pieces of `LazyTensor.chunks`."""


class Loads:
    """A selection into memory, or through it piece by piece."""

    __slots__ = ()

    def load(self, device: torch.device | str | None = None) -> torch.Tensor:
        """Read the selection into a tensor.

        The tensor is the caller's own, to be written to in any way: nothing reaches the file or
        other loads, and pickling it writes these rows only.

        Cost: 256 KiB or more of one chunk of a local dataset, in the stored dtype and at least half
        of each row, are not copied: a private map of these rows. The file must not be truncated
        while the tensor lives. Otherwise one allocation and one copy of what is selected.

        Raises:
            SelectionError: examples differ in length, or the site does not have some of the rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][1, :2].load()  # example 1, its first two rows
            tensor([[4., 5.],
                    [6., 7.]])
        """
        x = cast("LazyTensor", self)
        return load(x if device is None else x.to(device))

    def padded(self, value: float = 0, side: Side = "right") -> torch.Tensor:
        """Read the selection, shorter examples filled up with `value` at their end.

        With `side="left"` at their begin, so that the last row of each is the last of the result.
        `x.mask(side)` says what is filled up. Shape is `x.shape`, (examples, longest, ...); dtype
        that of `x`. Examples of one length have nothing to be filled up: as `load`.

        Cost: the padded tensor, and the values of a block of examples at a time.

        Raises:
            SelectionError: `value` is no number that the dtype holds, or `side` no side.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][:, :, 0].padded(-1)
            tensor([[ 0.,  2., -1.],
                    [ 4.,  6.,  8.],
                    [10., -1., -1.]])
        """
        return padded(cast("LazyTensor", self), value, side)

    def mask(self, side: Side = "right") -> torch.Tensor:
        """Return where `padded` has rows: bool[examples, longest], False where it is filled up.

        On the device of `x`. Indexes it too: `x.padded()[x.mask()]` are the rows of `x[x.mask()]`.

        Cost: reads nothing.

        Raises:
            SelectionError: there is no dimension of positions, or `side` is no side.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].mask().long().tolist()
            [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
        """
        return mask(cast("LazyTensor", self), side)

    def nested(self) -> torch.Tensor:
        """Read the selection into a nested tensor of torch (jagged layout): one copy, no padding.

        Shape (examples, ragged, ...); dtype that of `x`.

        Raises:
            SelectionError: there is no dimension of positions.

        Example:
            >>> from lazycache.samples import small_cache
            >>> [len(part) for part in small_cache()["resid_out_0"].nested().unbind()]
            [2, 3, 1]
        """
        return nested(cast("LazyTensor", self))

    def numpy(self) -> np.ndarray:
        """Read the selection into an array; bfloat16 and float8 as float32, which is exact.

        Shape and cost as `load`, also that the array is the caller's own to write to; a dtype that
        numpy lacks costs another copy.

        Raises:
            SelectionError: examples differ in length, or the site does not have some of the rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][2].numpy()
            array([[10., 11.]], dtype=float32)
        """
        return to_numpy(cast("LazyTensor", self))

    def chunks(self, bytes: int = CHUNK_BYTES) -> Iterator[torch.Tensor]:  # noqa: A002  # a unit
        """Yield the rows (`x.rows`) in tensors of at most `bytes` bytes, at least a row each.

        Cost: one such tensor at a time; as `load` for each.

        Example:
            >>> from lazycache.samples import small_cache
            >>> [len(chunk) for chunk in small_cache()["resid_out_0"].chunks(bytes=32)]
            [4, 2]
        """
        x = cast("LazyTensor", self).rows
        rows = x.lead.flat()
        row_bytes = max(1, math.prod(x.row_shape) * x.dtype.itemsize)
        for start, stop in blocks(len(rows), size=bytes // row_bytes):
            yield x.values_of(rows[start:stop])
