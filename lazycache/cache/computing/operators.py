"""Lazy tensors where numbers are expected: `x + 1`, `a - b`, `x == 0`, `float(x[0])`, `x.map(fn)`.

One rule: an operator and `.map` give a lazy tensor, a torch or numpy function gives numbers, within
the budget of implicit loads. Operators on ragged tensors load, too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lazycache.cache.computing import arithmetic, torch_functions
from lazycache.cache.computing.expressions import map_with
from lazycache.cache.computing.operator_table import OperatorTable
from lazycache.cache.memory.loading import Loadable, within_budget
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor


def operated(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Return an operator's result: lazy, but of ragged tensors, which are loaded within the budget.

    Raises:
        SelectionError: shapes or rows do not fit; see `arithmetic`.
        MemoryBudgetError: of ragged tensors.
    """
    if all(map(arithmetic.is_operand, args)):
        if function is operator.matmul:
            return arithmetic.matmul(*args)
        return arithmetic.elementwise(function, args)
    # torch takes numbers and tensors
    known = [torch.tensor(a, device="cpu") if isinstance(a, np.ndarray) else a for a in args]
    return torch_functions.loaded_call(_lazy(), function, tuple(known), {})


def _lazy() -> type[Loadable]:
    # every class that has these operators: ragged and other lazy tensors meet in one function
    return cast("type[Loadable]", Operators)


class Operators(OperatorTable):
    """Operators of a lazy tensor, ragged or not."""

    __slots__ = ()

    def _takes(self, other: object) -> bool:
        return isinstance(other, Operators) or arithmetic.is_operand(other)

    def _operated(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        return operated(function, args)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        x = cast("Loadable", self)
        within_budget([x], what="an array of it")
        array = x.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"{array.dtype} to {dtype} needs a copy.")
            return array.astype(dtype)
        return array.copy() if copy else array

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer `tensor + x` as `x + tensor`; aggregates in a stream; load for the others."""
        function = torch_functions.OPERATORS.get(func)
        if function is not None and not kwargs:
            return operated(function, args)
        return torch_functions.call(_lazy(), func, args, kwargs or {})

    def __contains__(self, value: object) -> bool:
        """Whether a value is there: reads until it is found, a chunk at a time."""
        x = cast("LazyTensor", self)
        if arithmetic.is_operand(self):
            found = x == value
            # of what is no number, Python has answered by itself
            pieces = iter(()) if isinstance(found, bool) else cast("LazyTensor", found).chunks()
        else:
            pieces = (torch.as_tensor(piece == value) for piece in x.chunks())
        return any(bool(piece.any()) for piece in pieces)

    def item(self) -> float | int | bool:
        """Read the one value that is selected, as a number of Python.

        Raises:
            SelectionError: more than one value is selected, or none.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"][1, 0, 1].item()
            5.0
        """
        x = cast("Loadable", self)
        if x.is_ragged or x.shape.numel() != 1:
            raise SelectionError(f"{x!r} is not one value; select one, x[0, 0, 0], or .load() all.")
        number: float | int | bool = x.load().item()
        return number

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        raise SelectionError("a lazy tensor is neither true nor false: load it, or use len().")


class RowOperators(Operators):
    """Operators of a lazy tensor whose rows have one shape, and functions of its rows."""

    __slots__ = ()

    def map(
        self,
        fn: Callable[[torch.Tensor], torch.Tensor],
        shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> LazyTensor:
        """Return a function of the rows, lazy: computed of the rows that are read, a block at once.

        `fn` takes rows [n, *row] and gives a result for each, [n, *anything], from that row alone:
        `sae.encode`, a projection, a norm. It is given blocks of any number of rows, without
        gradients, and may write to them. What a row becomes is learned by giving it two rows of
        zeros, unless `shape` and `dtype` say it.

        Args:
            fn: A function of rows, for which each row counts alone.
            shape: What `fn` makes of a row; with `dtype` it is not asked now.
            dtype: Dtype of the results.

        Cost: reads nothing. Later, `fn` is called for the rows that are asked for, each time.

        Raises:
            SelectionError: `fn` gives no tensor, or not a result for each row.
            UnsupportedDtypeError: it gives a dtype that datasets do not hold.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache()["resid_out_0"].map(lambda rows: rows.softmax(-1))[0, 0].load()
            tensor([0.2689, 0.7311])
        """
        x = cast("LazyTensor", self)
        return map_with(x, fn, None if shape is None else tuple(shape), dtype)
