"""Operators of a stack: those of each of its layers, lazy where these are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from lazycache.cache.computing import torch_functions
from lazycache.cache.computing.arithmetic import is_operand
from lazycache.cache.computing.operator_table import OperatorTable
from lazycache.cache.computing.operators import Operators
from lazycache.cache.memory.loading import within_budget
from lazycache.errors import SelectionError

if TYPE_CHECKING:
    from lazycache.cache.stacks.stack import LazyStack


def operated(function: Callable[..., Any], args: Sequence[Any]) -> LazyStack:
    """Return a function of operands, of which some are stacks: of each layer.

    Raises:
        SelectionError: they have different numbers of layers; see also `arithmetic`.
    """
    stacks = [cast("LazyStack", arg) for arg in args if isinstance(arg, StackOperators)]
    largest = max(stacks, key=len)
    columns = [_layers(arg, largest) for arg in args]
    made: LazyStack = largest.restacked([function(*layer) for layer in zip(*columns, strict=True)])
    return made


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


class StackOperators(OperatorTable):
    """Operators of a stack. Another stack is paired up layer by layer, all else as in torch."""

    __slots__ = ()

    def _takes(self, other: object) -> bool:
        return isinstance(other, (StackOperators, Operators)) or is_operand(other)

    def _operated(self, function: Callable[..., Any], args: Sequence[Any]) -> LazyStack:
        return operated(function, args)

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
