"""Lazy tensors where numbers are expected: `x + 1`, `x == 0`, `float(x[0])`, `torch.exp(x)`.

An operator loads, within the budget of implicit loads, and gives a torch tensor, as the torch
function of its name does; `np.asarray(x)` gives an array.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

from lazycache.cache import torch_functions
from lazycache.cache.loading import Loadable, within_budget
from lazycache.errors import SelectionError

_Operator = Callable[["Operators", Any], torch.Tensor]


def _binary(function: Callable[[Any, Any], Any], *, reflected: bool = False) -> _Operator:
    def operate(self: Operators, other: Any) -> torch.Tensor:
        if other is None or isinstance(other, (str, bytes, dict, set)):
            return cast("torch.Tensor", NotImplemented)  # as any number or tensor answers
        # torch takes numbers and tensors
        that = torch.as_tensor(other, device="cpu") if isinstance(other, np.ndarray) else other
        args = (that, self) if reflected else (self, that)
        result: torch.Tensor = torch_functions.call(_lazy(), function, args, {})
        return result

    return operate


def _unary(function: Callable[[Any], Any]) -> Callable[[Operators], torch.Tensor]:
    def operate(self: Operators) -> torch.Tensor:
        result: torch.Tensor = torch_functions.call(_lazy(), function, (self,), {})
        return result

    return operate


def _lazy() -> type[Loadable]:
    # every class that has these operators: ragged and other lazy tensors meet in one function
    return cast("type[Loadable]", Operators)


class Operators:
    """Operators of a lazy tensor, ragged or not. Each loads what is selected."""

    __slots__ = ()

    __eq__ = _binary(operator.eq)  # type: ignore[assignment]  # as torch, not a bool
    __ne__ = _binary(operator.ne)  # type: ignore[assignment]
    # by identity, as torch's: `==` compares values, a dictionary must not read them
    __hash__ = object.__hash__
    __lt__ = _binary(operator.lt)
    __le__ = _binary(operator.le)
    __gt__ = _binary(operator.gt)
    __ge__ = _binary(operator.ge)
    __add__ = _binary(operator.add)
    __sub__ = _binary(operator.sub)
    __mul__ = _binary(operator.mul)
    __matmul__ = _binary(operator.matmul)
    __truediv__ = _binary(operator.truediv)
    __floordiv__ = _binary(operator.floordiv)
    __mod__ = _binary(operator.mod)
    __pow__ = _binary(operator.pow)
    __radd__ = _binary(operator.add, reflected=True)
    __rsub__ = _binary(operator.sub, reflected=True)
    __rmul__ = _binary(operator.mul, reflected=True)
    __rmatmul__ = _binary(operator.matmul, reflected=True)
    __rtruediv__ = _binary(operator.truediv, reflected=True)
    __rfloordiv__ = _binary(operator.floordiv, reflected=True)
    __rmod__ = _binary(operator.mod, reflected=True)
    __rpow__ = _binary(operator.pow, reflected=True)
    __neg__ = _unary(operator.neg)
    __abs__ = _unary(operator.abs)

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
        """Answer aggregates in a stream; load for other functions, within the budget."""
        return torch_functions.call(_lazy(), func, args, kwargs or {})

    def __contains__(self, value: object) -> bool:
        return bool(torch.as_tensor(self == value).any())

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
