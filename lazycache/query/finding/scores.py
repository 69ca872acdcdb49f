"""One number for each row of a tensor, block by block: along a direction, or by a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch

from lazycache.cache.aggregates.row_stream import by_rows, numbered, row_parts
from lazycache.cache.files.parallel import ordered, threads
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError

TILE_VALUES = 1 << 17
"""Values that are converted at a time: they stay in the processor's cache."""


class Scores(Protocol):
    """What a number for each row is."""

    def __call__(self, values: torch.Tensor, /) -> torch.Tensor:
        """Return [n] of values [n, *row], which it leaves as they are."""
        ...

    @property
    def alone(self) -> bool:
        """Whether it may not be called by several threads, or changes what it is given."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """The dot product with a direction."""

    direction: torch.Tensor
    """[units], in the dtype in which it is computed."""
    alone: bool = False
    """As `Scores.alone`."""

    @classmethod
    def of(cls, x: LazyTensor, direction: Any) -> Self:
        """Return that of a direction as a caller gives it: any array, list or tensor.

        Raises:
            QueryError: it has another shape than the rows of `x`; or numbers that are not finite.
        """
        given = direction.load() if isinstance(direction, LazyTensor) else direction
        # in float32 as the values are; in float64 where float32 has not all of them
        wide = {torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64}
        dtype = torch.float64 if x.dtype in wide else torch.float32
        vector = torch.as_tensor(given).detach().to(device=x.device, dtype=dtype)
        shape = list(x.row_shape)
        if list(vector.shape) not in (shape, [math.prod(shape)]):
            raise QueryError(
                f"A row of {x.site} has the shape {shape}: a direction has it too, not "
                f"{list(vector.shape)}."
            )
        if not bool(vector.isfinite().all()):
            raise QueryError("The direction has numbers that are not finite: every dot is NaN.")
        return cls(vector.reshape(-1))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return the dot products: [n]."""
        flat, vector = values.reshape(len(values), -1), self.direction
        step = max(1, TILE_VALUES // max(1, flat.shape[1]))
        found = torch.empty(len(flat), dtype=vector.dtype, device=flat.device)
        for start in range(0, len(flat), step):
            tile = flat[start : start + step].to(vector.dtype)
            torch.mv(tile, vector, out=found[start : start + step])
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A caller's own function."""

    function: Callable[[torch.Tensor], torch.Tensor]
    """Of values [n, *row]."""
    alone: bool = True
    """As `Scores.alone`."""

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Return its numbers.

        Raises:
            QueryError: they are not one for each row.
        """
        # what it does to its argument must not come into the file's map
        found = self.function(values.clone())
        if not isinstance(found, torch.Tensor) or found.shape != (len(values),):
            what = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise QueryError(
                f"score() gives one number for each row, a tensor of shape [{len(values)}] of "
                f"values {list(values.shape)}, not {what}."
            )
        return found.detach()


def scores_of(x: LazyTensor, scores: Scores) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield rows and their scores, block by block, without those that are NaN.

    Blocks do not depend on how many threads there are, so neither do rounded sums.
    """
    stream = by_rows(x)

    def of(part: tuple[np.ndarray, torch.Tensor]) -> tuple[np.ndarray, torch.Tensor]:
        rows, block = part
        found = scores(block).cpu()
        there = ~found.isnan() if found.dtype.is_floating_point else None
        if there is None or bool(there.all()):
            return rows, found
        return rows[there.numpy()], found[there]

    workers = 1 if scores.alone else threads(x.nbytes)
    for rows in row_parts(x):
        yield from ordered(of, numbered(stream, rows), workers=workers)
