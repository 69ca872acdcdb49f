"""What a program takes that is no rows of its own: numbers, tensors, and rows that many share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.computing.operands import rows_at, widened
from lazycache.cache.computing.row_spaces import Numbered, coordinates
from lazycache.cache.reading.costs import Once, Tally, summed
from lazycache.cache.selecting.plan import Rows, as_array, blocks
from lazycache.cache.selecting.selection import Grid, Lead
from lazycache.cache.selecting.units import Units
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """A number of Python or numpy, which promotes dtypes as a number does."""

    number: Any
    """The number."""

    @property
    def key(self) -> object:
        """Itself."""
        return (Number, id(self.number))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """None."""
        return ()

    def value(
        self,
        rows: Rows,  # noqa: ARG002  # one for all
        units: Units | None,  # noqa: ARG002
        shape: tuple[int, ...],  # noqa: ARG002
        *,
        single: bool,  # noqa: ARG002
    ) -> Any:
        """Return the number."""
        return self.number


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """A tensor of the caller's, not copied: it must not be written to before it is used."""

    tensor: torch.Tensor
    """The tensor."""
    version: int
    """How often it had been written to."""

    @staticmethod
    def of(tensor: torch.Tensor) -> Kept:
        """Return a tensor kept as it is now; one that does not count its writes is copied."""
        if tensor.is_inference():
            return Kept(tensor.clone(), -1)
        return Kept(tensor.detach(), tensor._version)  # noqa: SLF001  # torch has no other name

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept.of, (self.get(),)

    def get(self) -> torch.Tensor:
        """Return the tensor.

        Raises:
            SelectionError: it was written to since.
        """
        if self.version >= 0 and self.tensor._version != self.version:  # noqa: SLF001
            raise SelectionError(
                f"a tensor of shape {list(self.tensor.shape)} was changed in place after a lazy "
                "expression was made with it: compute with a copy, x + t.clone()."
            )
        return self.tensor


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A tensor that all rows share, of no leading dimensions or of one that is 1."""

    kept: Kept
    """The tensor."""
    row_ndim: int
    """How many of its dimensions are those of a row."""

    @property
    def key(self) -> object:
        """The tensor."""
        return (Shared, id(self.kept.tensor), self.row_ndim)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of it, without leading dimensions."""
        shape = tuple(self.kept.tensor.shape)
        return shape[max(0, len(shape) - self.row_ndim) :]

    def value(
        self,
        rows: Rows,  # noqa: ARG002  # one for all
        units: Units | None,
        shape: tuple[int, ...],
        *,
        single: bool,
    ) -> torch.Tensor:
        """Return the tensor, or units of it."""
        values = self.kept.get()
        if units is None or not values.ndim:
            return values
        if single:
            return widened(values.expand(shape)[None], units, shape)[0]
        leading = values if values.ndim > self.row_ndim else values[None]
        return widened(leading.reshape(1, *self.row_shape), units, shape)


class Loaded:
    """A lazy tensor of no leading dimensions, loaded when it is first used, and kept."""

    def __init__(self, x: LazyTensor, row_ndim: int) -> None:
        self._x = x
        self._row_ndim = row_ndim
        self._shared: Shared | None = None

    @property
    def key(self) -> object:
        """Itself."""
        return (Loaded, id(self))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of it."""
        shape = tuple(self._x.shape)
        return shape[max(0, len(shape) - self._row_ndim) :]

    def cost(self) -> Tally:
        """Return what `value` would read the first time; nothing once it is there."""
        if self._shared is not None:
            return Tally()
        found = self._x.cost_of(self._x.lead.flat())
        mine = Once((Loaded, id(self)), found.requests, found.nbytes, found.rows)
        return Tally(once=found.once | {mine}, exact=found.exact)

    def value(
        self, rows: Rows, units: Units | None, shape: tuple[int, ...], *, single: bool
    ) -> torch.Tensor:
        """Return its value, or units of it."""
        shared = self._shared
        if shared is None:
            # threads that come at once may each load it: no lock is held while bytes are read
            value, extra = self._x.load(), self._x.ndim - self._row_ndim
            # of leading dimensions, which are 1, one is kept
            value = value.reshape(1, *value.shape[extra:]) if extra > 1 else value
            shared = self._shared = Shared(Kept.of(value), self._row_ndim)
        return shared.value(rows, units, shape, single=single)


@dataclass(frozen=True, slots=True, eq=False)
class ByPlace:
    """Where in leading dimensions, some of which are 1, the rows of a program are."""

    numbered: Numbered
    """The rows of the program."""
    lead: Lead
    """Their leading dimensions."""
    shape: tuple[int, ...]
    """The other ones, which broadcast to these; as many or fewer."""

    def index(self, rows: Rows) -> tuple[np.ndarray, ...]:
        """Return an index for each of these dimensions: int64[n] each."""
        found = coordinates(self.lead, self.numbered.places(rows))
        mine = found[len(found) - len(self.shape) :]
        return tuple(
            np.zeros_like(at) if n == 1 else at for at, n in zip(mine, self.shape, strict=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class PerRow:
    """A tensor with leading dimensions: each row has its own part of it, or that of its example."""

    kept: Kept
    """[*lead, *row]."""
    place: ByPlace
    """Where each row's is."""

    @property
    def key(self) -> object:
        """The tensor, and how it is indexed."""
        return (PerRow, id(self.kept.tensor), id(self.place))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of it, without leading dimensions."""
        return tuple(self.kept.tensor.shape[len(self.place.shape) :])

    def value(
        self,
        rows: Rows,
        units: Units | None,
        shape: tuple[int, ...],
        *,
        single: bool,  # noqa: ARG002  # a single row has no leading dimensions
    ) -> torch.Tensor:
        """Return [n, *row_shape], or [n, *units.shape]."""
        tensor = self.kept.get()
        index = tuple(torch.from_numpy(at).to(tensor.device) for at in self.place.index(rows))
        values = tensor[index]
        return values if units is None else widened(values, units, shape)


@dataclass(frozen=True, slots=True, eq=False)
class RowsFor:
    """A lazy tensor of which one row is for several: for all positions of an example, say."""

    x: LazyTensor
    """[*lead, *row]."""
    place: ByPlace
    """Where each row's is."""

    @property
    def key(self) -> object:
        """The tensor, and how it is indexed."""
        return (RowsFor, id(self.x), id(self.place))

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of a row of it."""
        return self.x.row_shape

    def cost(self, rows: Rows, *, step: int) -> Tally:
        """Return what `value` would read of rows that are asked for `step` at a time."""
        parts = (rows[start:stop] for start, stop in blocks(len(rows), size=step))
        return summed(self.x.cost_of(np.unique(self._mine(part))) for part in parts)

    def _mine(self, rows: Rows) -> np.ndarray:
        lead, index = self.x.lead, self.place.index(rows)
        if isinstance(lead, Grid):
            lengths = lead.lengths()
            places = (np.cumsum(lengths) - lengths)[index[0]] + index[1]
        else:
            places = np.ravel_multi_index(index, lead.shape)
        return as_array(rows_at(lead.flat(), places))

    def value(
        self,
        rows: Rows,
        units: Units | None,
        shape: tuple[int, ...],
        *,
        single: bool,  # noqa: ARG002  # a single row has no leading dimensions
    ) -> torch.Tensor:
        """Return [n, *row_shape], or [n, *units.shape]; each row is read once."""
        mine, at = np.unique(self._mine(rows), return_inverse=True)
        values = self.x.values_of(mine)
        values = values[torch.from_numpy(at).to(values.device)]
        return values if units is None else widened(values, units, shape)
