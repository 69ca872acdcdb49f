"""Operators of a stack: those of each of its layers, lazy where these are."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lazycache.cache.computing import torch_functions
from lazycache.cache.computing.arithmetic import is_operand
from lazycache.cache.computing.operators import Operators
from lazycache.cache.memory.loading import within_budget
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.stacks.stack import LazyStack


def _binary(function: Callable[[Any, Any], Any], *, reflected: bool = False) -> Any:
    def operate(self: StackOperators, other: Any) -> Any:
        if not isinstance(other, (StackOperators, Operators)) and not is_operand(other):
            return NotImplemented  # as any number or tensor answers
        return operated(function, (other, self) if reflected else (self, other))

    return operate


def _unary(function: Callable[[Any], Any]) -> Any:
    def operate(self: StackOperators) -> Any:
        return operated(function, (self,))

    return operate


def operated(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Return a function of operands, of which some are stacks: of each layer.

    Raises:
        SelectionError: they have different numbers of layers; see also `arithmetic`.
    """
    stacks = [cast("LazyStack", arg) for arg in args if isinstance(arg, StackOperators)]
    largest = max(stacks, key=len)
    columns = [_layers(arg, largest) for arg in args]
    return largest.restacked([function(*layer) for layer in zip(*columns, strict=True)])


def _layers(operand: Any, stack: LazyStack) -> list[Any]:
    """Return what an operand is for each layer, by torch's broadcasting."""
    count = len(stack)
    if isinstance(operand, StackOperators):
        parts: list[Any] = list(cast("LazyStack", operand).members)
    elif isinstance(operand, (np.ndarray, torch.Tensor)) and operand.ndim == stack.ndim:
        parts = list(operand)
    else:
        return [operand] * count
    if len(parts) not in (1, count):
        raise SelectionError(f"{count} layers and {len(parts)} do not go together.")
    return parts if len(parts) == count else parts * count


class StackOperators:
    """Operators of a stack. Another stack is paired up layer by layer, all else as in torch."""

    __slots__ = ()

    __array_priority__ = 1000  # `array + x` is asked of x, as of a torch tensor

    __eq__ = _binary(operator.eq)
    __ne__ = _binary(operator.ne)
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
    __and__ = _binary(operator.and_)
    __or__ = _binary(operator.or_)
    __xor__ = _binary(operator.xor)
    __radd__ = _binary(operator.add, reflected=True)
    __rsub__ = _binary(operator.sub, reflected=True)
    __rmul__ = _binary(operator.mul, reflected=True)
    __rmatmul__ = _binary(operator.matmul, reflected=True)
    __rtruediv__ = _binary(operator.truediv, reflected=True)
    __rfloordiv__ = _binary(operator.floordiv, reflected=True)
    __rmod__ = _binary(operator.mod, reflected=True)
    __rpow__ = _binary(operator.pow, reflected=True)
    __rand__ = _binary(operator.and_, reflected=True)
    __ror__ = _binary(operator.or_, reflected=True)
    __rxor__ = _binary(operator.xor, reflected=True)
    __neg__ = _unary(operator.neg)
    __pos__ = _unary(operator.pos)
    __abs__ = _unary(operator.abs)
    __invert__ = _unary(operator.invert)

    def map(self, fn: Callable[[torch.Tensor], torch.Tensor], **options: Any) -> LazyStack:
        """Return a function of the rows of each layer, lazy; as `LazyTensor.map`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stack("resid_out_*").map(lambda rows: rows.sum(-1)).shape
            torch.Size([1, 3, 3])
        """
        made: LazyStack = operated(lambda layer: layer.map(fn, **options), (self,))
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        x = cast("LazyStack", self)
        within_budget([x], what="an array of it")
        if copy is False:
            raise ValueError("a stack is copied into an array.")
        array = x.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer `tensor + x` as `x + tensor`; aggregates in a stream; load for the others."""
        function = torch_functions.OPERATORS.get(func)
        if function is not None and not kwargs:
            return operated(function, args)
        return torch_functions.call(cast("Any", StackOperators), func, args, kwargs or {})

    def __bool__(self) -> bool:
        raise SelectionError("a lazy stack is neither true nor false: load it, or use len().")
