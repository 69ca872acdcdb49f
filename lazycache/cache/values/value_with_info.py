"""A value of a cache with a note about it: the value in every calculation, the note kept beside."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class ValueWithInfo:
    """A value and what is known about it, as `cache.add_with_info` stores it.

    It stands for the value: indexing, operators, torch functions, `len` and other attributes
    (`.shape`, `.mean()`) are the value's and give plain results. `to`, `cpu`, `cuda`, `clone` and
    `detach` keep the info; so do `copy`, `deepcopy` and pickle.

    Example:
        >>> import torch
        >>> noted = ValueWithInfo(torch.ones(2, 3), "batch, unit")
        >>> noted.info(), noted.shape, torch.sum(noted).item(), (noted + 1)[0, 0].item()
        ('batch, unit', torch.Size([2, 3]), 6.0, 2.0)
    """

    __slots__ = ("_info", "_value")

    def __init__(self, value: Any, info: Any = None) -> None:
        self._value = value
        self._info = info

    def value(self) -> Any:
        """Return the value itself."""
        return self._value

    def info(self) -> Any:
        """Return the note."""
        return self._info

    def to(self, *args: Any, **kwargs: Any) -> ValueWithInfo:
        """Return it with the value moved or converted, with its info."""
        return ValueWithInfo(self._value.to(*args, **kwargs), self._info)

    def cpu(self) -> ValueWithInfo:
        """Return it with the value in main memory, with its info."""
        return self.to("cpu")

    def cuda(self) -> ValueWithInfo:
        """Return it with the value on the GPU, with its info."""
        return self.to("cuda")

    def clone(self) -> ValueWithInfo:
        """Return it with a copy of the value, with its info."""
        return ValueWithInfo(self._value.clone(), self._info)

    def detach(self) -> ValueWithInfo:
        """Return it with the value cut from its graph, with its info."""
        return ValueWithInfo(self._value.detach(), self._info)

    def __getattr__(self, name: str) -> Any:
        # no dunder is forwarded: copy and pickle ask for these before there is a value
        if name.startswith("__") or name in self.__slots__:
            raise AttributeError(name)
        return getattr(self._value, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return ValueWithInfo, (self._value, self._info)

    def __repr__(self) -> str:
        shape = getattr(self._value, "shape", None)
        of = type(self._value).__name__ + ("" if shape is None else str(list(shape)))
        return f"ValueWithInfo({of}, info={self._info!r:.80})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function with the values."""
        del types
        return func(*map(plain, args), **{k: plain(v) for k, v in (kwargs or {}).items()})

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.asarray(self._value, dtype=dtype)
        return array.copy() if copy else array

    def __getitem__(self, index: Any) -> Any:
        return self._value[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._value[index] = plain(value)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._value)

    def __contains__(self, item: object) -> bool:
        return item in self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __int__(self) -> int:
        return int(self._value)

    def __neg__(self) -> Any:
        return -self._value

    def __abs__(self) -> Any:
        return abs(self._value)

    def __invert__(self) -> Any:
        return ~self._value

    # as of a tensor, `==` is of the values; as a dictionary key it is itself
    __hash__ = object.__hash__


def plain(value: Any) -> Any:
    """Return a value without its info, also inside lists, tuples and dicts.

    Example:
        >>> plain([ValueWithInfo(1, "one"), 2])
        [1, 2]
    """
    if isinstance(value, ValueWithInfo):
        return value.value()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


def _operator(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def method(self: ValueWithInfo, other: Any) -> Any:
        return apply(self.value(), plain(other))

    return method


def _reflected(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def method(self: ValueWithInfo, other: Any) -> Any:
        return apply(plain(other), self.value())

    return method


for _name in (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor",
):  # fmt: skip
    _apply = getattr(operator, _name)
    setattr(ValueWithInfo, f"__{_name.rstrip('_')}__", _operator(_apply))
    setattr(ValueWithInfo, f"__r{_name.rstrip('_')}__", _reflected(_apply))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ValueWithInfo, f"__{_name}__", _operator(getattr(operator, _name)))
