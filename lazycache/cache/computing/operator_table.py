"""Which operators there are, each as a function of its operands: one table for all lazy values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any


def _binary(function: Callable[[Any, Any], Any], *, reflected: bool = False) -> Any:
    def operate(self: OperatorTable, other: Any) -> Any:
        if not self._takes(other):
            return NotImplemented  # as any number or tensor answers
        return self._operated(function, (other, self) if reflected else (self, other))

    return operate


def _unary(function: Callable[[Any], Any]) -> Any:
    def operate(self: OperatorTable) -> Any:
        return self._operated(function, (self,))

    return operate


class OperatorTable:
    """Every operator of torch tensors, for classes that say which operands they take, and how."""

    __slots__ = ()

    __array_priority__ = 1000  # `array + x` is asked of x, as of a torch tensor

    if TYPE_CHECKING:

        def _takes(self, other: object) -> bool: ...
        def _operated(self, function: Callable[..., Any], args: Sequence[Any]) -> Any: ...

    __eq__ = _binary(operator.eq)  # as torch, not a bool
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
