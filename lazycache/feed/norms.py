"""Normalised rows: centred, standardised or scaled by what is stored of a site."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from lazycache.errors import SelectionError, nearest

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor

Applied = Callable[[torch.Tensor], torch.Tensor]
"""What is done to rows: a `Norm`, or a function of the caller."""

_LEAST = torch.finfo(torch.float32).tiny


class Norm:
    """What is done to rows before they are handed out, and what undoes it: (x - shift) / spread.

    Units whose spread is 0, those that are the same in all rows, become 0, and `invert` gives back
    what they were. It is a plain value: keep `tensors()` beside the weights that were trained.

    Args:
        shift: What is taken away: of each unit, [*row], or one number.
        spread: What the rest is divided by: of each unit, or one number; not negative.

    Raises:
        SelectionError: a number is not finite, or a spread is negative.

    Example:
        >>> norm = Norm(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 0.0]))
        >>> norm(torch.tensor([[5.0, 4.0]]))
        tensor([[2., 0.]])
        >>> norm.invert(torch.tensor([[2.0, 0.0]]))
        tensor([[5., 4.]])
    """

    __slots__ = ("_divisor", "_numbers", "_shifts", "_spreads", "shift", "spread")

    def __init__(self, shift: torch.Tensor | float, spread: torch.Tensor | float) -> None:
        self.shift = _numbers("shift", shift)
        """What is taken away: float64."""
        self.spread = _numbers("spread", spread)
        """What the rest is divided by: float64."""
        if bool((self.spread < 0).any()):
            raise SelectionError("a Norm divides by its spread, which is not negative.")
        # what float32 rounds to 0 would make nan of 0
        self._divisor = self.spread.where(self.spread >= _LEAST, math.inf)
        self._shifts = bool((self.shift != 0).any())
        self._spreads = bool((self.spread != 1).any())
        self._numbers: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, ...]] = {}

    @staticmethod
    def of(x: LazyTensor, kind: str) -> Norm:
        """Return a norm by the statistics of the rows of a lazy tensor.

        `"center"` takes away the mean of each unit. `"standard"` divides that by its standard
        deviation (of all rows, not estimated: the mean square of what comes out is 1). `"scale"`
        multiplies all units by one factor, so that the mean squared length of a row is the number
        of its units.

        Cost: of a whole site that has statistics no shard is read. Of selected rows and units the
        blocks at the edges are, or all rows once (`"standard"` twice), in blocks of some MB.

        Raises:
            SelectionError: there is no such kind; there are no rows; or some values are NaN or
                infinite, which would make every row so.

        Example:
            >>> from lazycache.samples import small_cache
            >>> x = small_cache()["resid_out_0"]
            >>> Norm.of(x, "center")(x[0].load())
            tensor([[-5., -5.],
                    [-3., -3.]])
        """
        make = _KINDS.get(kind)
        if make is None:
            raise SelectionError(f"there is no norm {kind!r}. {nearest(str(kind), _KINDS)}")
        if not x.count():
            raise SelectionError(f"{x!r} has no rows, so no {kind!r} norm.")
        shift, spread = make(x)
        found = shift + spread
        if not bool(found.isfinite().all()):
            odd = int((~found.isfinite()).sum())
            raise SelectionError(
                f"{odd:,} of {found.numel():,} numbers of the norm {kind!r} of {x!r} are not "
                "finite, because values are NaN or infinite: x.statistics() says which units. "
                "Choose rows without them by where=, or units, x[..., units]."
            )
        return Norm(shift, spread)

    @staticmethod
    def stacked(norms: Sequence[Norm], *, row_ndim: int = 1) -> Norm:
        """Return the norms of several layers as one, of rows [layers, *row].

        `row_ndim` says how many dimensions a row of a layer has.

        Example:
            >>> Norm.stacked([Norm(1.0, 1.0), Norm(2.0, 1.0)])(torch.full((1, 2, 3), 3.0)).tolist()
            [[[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]]
        """

        def together(numbers: Sequence[torch.Tensor]) -> torch.Tensor:
            ones = [one.reshape((1,) * (row_ndim - one.ndim) + one.shape) for one in numbers]
            shape = [max(sizes) for sizes in zip(*(one.shape for one in ones), strict=True)]
            return torch.stack([one.expand(shape) for one in ones])

        return Norm(together([n.shift for n in norms]), together([n.spread for n in norms]))

    @staticmethod
    def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Norm:
        """Return the norm that `tensors` was written of; see `tensors`.

        Raises:
            SelectionError: these are not its tensors.
        """
        if set(tensors) != {"shift", "spread"}:
            raise SelectionError(
                f"a Norm has the tensors 'shift' and 'spread', not {sorted(tensors)}."
            )
        return Norm(tensors["shift"], tensors["spread"])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return it as tensors, for a checkpoint or a safetensors file: float64.

        Example:
            >>> kept = Norm(0.0, 0.5).tensors()
            >>> kept["spread"], Norm.from_tensors(kept)(torch.ones(1))
            (tensor(0.5000, dtype=torch.float64), tensor([2.]))
        """
        return {"shift": self.shift, "spread": self.spread}

    def __call__(self, values: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return rows [n, *row] as a new tensor of `dtype`, float32 if that is None.

        Worked out in float32, or in float64 if that is asked for, on the device of the values.

        Example:
            >>> Norm(1.0, 2.0)(torch.tensor([[3.0, 5.0]]))
            tensor([[1., 2.]])
        """
        shift, divisor, _ = self._on(values.device, dtype)
        # a copy: what is handed in may be the file itself
        found = values.to(shift.dtype, copy=True)
        if self._shifts:
            found -= shift
        if self._spreads:
            found /= divisor
        return found if dtype is None else found.to(dtype)

    apply = __call__

    def invert(self, values: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return what rows were before, as a new tensor of `dtype`, float32 if that is None.

        Example:
            >>> Norm(1.0, 2.0).invert(torch.tensor([[1.0, 2.0]]))
            tensor([[3., 5.]])
        """
        shift, _, spread = self._on(values.device, dtype)
        found = values.to(shift.dtype, copy=True)
        if self._spreads:
            found *= spread
        if self._shifts:
            found += shift
        return found if dtype is None else found.to(dtype)

    def _on(self, device: torch.device, dtype: torch.dtype | None) -> tuple[torch.Tensor, ...]:
        """Return shift, divisor and spread where and as they are computed with."""
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        key = (device, exact)
        if key not in self._numbers:
            numbers = (self.shift, self._divisor, self.spread)
            found = tuple(one.to(device=device, dtype=exact) for one in numbers)
            if device.type == "cuda":
                # kept for all streams, and they were made on one
                torch.cuda.current_stream(device).synchronize()
            self._numbers[key] = found
        return self._numbers[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return Norm, (self.shift, self.spread)

    def __repr__(self) -> str:
        shown = [
            f"{name}={one.item():.6g}" if not one.ndim else f"{name}: {list(one.shape)}"
            for name, one in self.tensors().items()
        ]
        return f"Norm({', '.join(shown)})"


def norm_of(asked: object, x: LazyTensor) -> Applied | None:
    """Return what is done to rows of `x`: by its statistics, as it was given, or nothing.

    Args:
        asked: `"center"`, `"standard"` or `"scale"`; a `Norm`; a function of rows [n, *row] that
            returns a new tensor of as many; or None.
        x: The rows.

    Raises:
        SelectionError: it is none of these; or it does not fit the rows. Else as `Norm.of`.
    """
    if asked is None:
        return None
    if isinstance(asked, str):
        return Norm.of(x, asked)
    if isinstance(asked, Norm):
        _check_fits(asked, x)
        return asked
    if callable(asked):
        return cast("Applied", asked)
    raise SelectionError(
        f"norm is one of {', '.join(map(repr, _KINDS))}, a Norm or a function, not {asked!r}."
    )


def _check_fits(norm: Norm, x: LazyTensor) -> None:
    shape = torch.Size(x.row_shape)
    for one in norm.tensors().values():
        aligned = zip(reversed(one.shape), reversed(shape), strict=False)
        if one.ndim > len(shape) or any(a not in (1, b) for a, b in aligned):
            raise SelectionError(f"{norm!r} does not fit rows of shape {tuple(shape)} of {x!r}.")


def _numbers(name: str, given: torch.Tensor | float) -> torch.Tensor:
    found = torch.as_tensor(given).detach().to(device="cpu", dtype=torch.float64, copy=True)
    if not bool(found.isfinite().all()):
        raise SelectionError(f"the {name} of a Norm has numbers that are not finite.")
    return found


def _over_rows(found: object) -> torch.Tensor:
    # over rows an aggregate is a tensor: nothing lazy is left of them
    return cast("torch.Tensor", found).to(device="cpu", dtype=torch.float64)


def _center(x: LazyTensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _over_rows(x.mean("rows")), torch.ones((), dtype=torch.float64)


def _standard(x: LazyTensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _over_rows(x.mean("rows")), _over_rows(x.var("rows", correction=0)).sqrt()


def _scale(x: LazyTensor) -> tuple[torch.Tensor, torch.Tensor]:
    squared = _over_rows(x.norm("rows")).square().sum() / cast("int", x.count())
    units = max(1, math.prod(x.row_shape))
    return torch.zeros((), dtype=torch.float64), (squared / units).sqrt()


_KINDS: dict[str, Callable[[LazyTensor], tuple[torch.Tensor, torch.Tensor]]] = {
    "center": _center,
    "standard": _standard,
    "scale": _scale,
}
"""Shift and spread of the rows of a tensor, by name."""
