"""Values of a cache as trees of plain JSON, beside them their tensors. Pure; no pickle.

What JSON has (None, bools, finite numbers, texts, lists) is itself. All else is an object of one
key, its kind: `{"tuple": [...]}`, `{"tensor": 0}`, `{"float": "nan"}`. Tensors are counted in the
order in which they are met and stored beside the tree. `tree_values` reads them again.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.tensor_leaves import Leaf, leaf_of_array, leaf_of_rows, leaf_of_tensor
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.errors import UnsupportedDtypeError

MOST_DEPTH = 100
"""Containers inside each other."""

INT_BITS = 63
"""Bits of a whole number that JSON holds as itself."""

NUMPY_DTYPE = re.compile(r"[<>|=]?[biufcSUmM]\d{1,9}(\[\d{0,9}[A-Za-z]{1,2}\])?")
"""Dtypes of numpy whose values are bytes: no objects, no structures."""

_SURROGATES = re.compile("[\ud800-\udfff]")


def as_text(tree: Any) -> bytes:
    """Return a tree as JSON.

    Example:
        >>> as_text([1, None])
        b'[1,null]'
    """
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()


class Encoder:
    """Turn one value into a tree; its tensors are gathered in `leaves`.

    Args:
        where: How the value is reached, for messages: `cache['x']`.

    Example:
        >>> encoder = Encoder("cache['x']")
        >>> encoder.tree({"a": (1, float("nan")), "w": torch.ones(2)})
        {'dict': {'a': {'tuple': [1, {'float': 'nan'}]}, 'w': {'tensor': 0}}}
        >>> len(encoder.leaves)
        1
    """

    def __init__(self, where: str) -> None:
        self.leaves: list[Leaf] = []
        """The tensors, in the order in which the tree counts them."""
        self._where = [where]
        self._known: dict[int, tuple[int, Any]] = {}  # and the object, so that its id stays its own

    def tree(self, value: Any) -> Any:
        """Return the tree of a value.

        Cost: looks at every element of a container; the values of tensors are not touched.

        Raises:
            UnsupportedDtypeError: something that cannot be stored and read again as what it is;
                says where it is and what can be.
        """
        if type(value) in (type(None), bool, str, int, float):
            return _plain(value)
        encode = _ENCODERS.get(type(value))
        if encode is not None:
            return encode(self, value)
        if isinstance(value, np.generic):
            return {"scalar": self._scalar(value)}
        if isinstance(value, torch.Tensor):
            raise self.refused(f"a {type(value).__name__}", "A plain tensor of it can be saved.")
        raise self.refused(_kind(value), "")

    def refused(self, what: str, advice: str) -> UnsupportedDtypeError:
        """Return the error for something that cannot be stored."""
        return UnsupportedDtypeError(
            f"{''.join(self._where)} is {what}, which cannot be saved. {advice or _ADVICE}"
        )

    def below(self, key: Any, value: Any) -> Any:
        """Return the tree of a part of a container."""
        if len(self._where) > MOST_DEPTH:
            where = self._where[0]
            raise UnsupportedDtypeError(
                f"{where} is nested deeper than {MOST_DEPTH} times, or contains itself, and cannot "
                "be saved."
            )
        self._where.append(f"[{key!r:.60}]")
        tree = self.tree(value)
        self._where.pop()
        return tree

    def leaf(self, value: Any, make: Callable[[], Leaf]) -> int:
        """Return the number of a tensor; one that is there twice is stored once."""
        if id(value) not in self._known:
            try:
                self.leaves.append(make())
            except UnsupportedDtypeError as exc:
                raise UnsupportedDtypeError(f"{''.join(self._where)}: {exc}") from exc
            self._known[id(value)] = (len(self.leaves) - 1, value)
        return self._known[id(value)][0]

    def _scalar(self, value: np.generic) -> list[str]:
        dtype, raw = value.dtype.str, value.tobytes()
        if not NUMPY_DTYPE.fullmatch(dtype) or not raw:
            raise self.refused(f"a numpy value of dtype {value.dtype}", "")
        # numpy drops zeros at the end of texts when it reads them
        if value.dtype.kind in "SU" and np.frombuffer(raw, value.dtype)[0] != value:
            raise self.refused("a numpy text that ends with a zero", "A Python text can be saved.")
        return [dtype, raw.hex()]


_ADVICE = (
    "Saved are tensors, numpy arrays and values, numbers, texts, bytes, None, and lists, tuples "
    "and dicts of these. Take it out of the cache (del cache[key]) or store it as one of them."
)


def _kind(value: Any) -> str:
    kind = type(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"the function or class {value.__qualname__}"
    return f"an object of type {kind.__module__}.{kind.__qualname__}"


def _plain(value: Any) -> Any:
    if type(value) is str and not value.isascii() and _SURROGATES.search(value):
        return {"text": b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    if type(value) is float and not math.isfinite(value):
        return {"float": repr(value)}
    if type(value) is int and value.bit_length() > INT_BITS:
        return {"int": hex(value)}
    return value


def _list(encoder: Encoder, value: Any) -> list[Any]:
    return [encoder.below(i, item) for i, item in enumerate(value)]


def _dict(encoder: Encoder, value: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str and type(_plain(key)) is str for key in value):
        return {"dict": {key: encoder.below(key, item) for key, item in value.items()}}
    pairs = []
    for key, item in value.items():
        tree = encoder.below(key, key)
        if not is_key(key):
            raise encoder.refused(f"a dict with the key {key!r:.60}", "Use texts or numbers.")
        pairs.append([tree, encoder.below(key, item)])
    return {"items": pairs}


def is_key(key: Any) -> bool:
    """Whether something may be a key of a dict that is stored."""
    if type(key) is tuple:
        return all(map(is_key, key))
    return type(key) in (type(None), bool, str, int, float, bytes, complex)


def _tensor(encoder: Encoder, value: torch.Tensor) -> dict[str, Any]:
    plain = value.detach()
    if plain.is_complex():
        real = torch.view_as_real(plain.resolve_conj())
        return {"complex_tensor": encoder.leaf(value, lambda: leaf_of_tensor(real))}
    return {"tensor": encoder.leaf(value, lambda: leaf_of_tensor(plain))}


def _array(encoder: Encoder, value: np.ndarray) -> dict[str, Any]:
    if not NUMPY_DTYPE.fullmatch(value.dtype.str) or not value.dtype.itemsize:
        raise encoder.refused(f"a numpy array of dtype {value.dtype}", "")
    number = encoder.leaf(value, lambda: leaf_of_array(value))
    return {"array": [number, value.dtype.str, list(value.shape)]}


def _lazy(encoder: Encoder, value: LazyTensor) -> dict[str, Any]:
    number = encoder.leaf(value, lambda: leaf_of_rows(value))
    if not value.is_ragged:
        return {"tensor": number}
    return {"ragged": [number, value.lengths.tolist()]}


def _noted(encoder: Encoder, value: ValueWithInfo) -> dict[str, Any]:
    return {"noted": [encoder.below("value", value.value()), encoder.below("info", value.info())]}


_ENCODERS: Mapping[type, Callable[[Encoder, Any], Any]] = {
    list: _list,
    tuple: lambda encoder, value: {"tuple": _list(encoder, value)},
    dict: _dict,
    bytes: lambda _, value: {"bytes": b64encode(value).decode()},
    complex: lambda _, value: {"complex": [_plain(value.real), _plain(value.imag)]},
    torch.Tensor: _tensor,
    torch.nn.Parameter: _tensor,
    torch.Size: lambda _, value: {"size": list(value)},
    torch.dtype: lambda _, value: {"dtype": str(value).removeprefix("torch.")},
    torch.device: lambda _, value: {"device": str(value)},
    np.ndarray: _array,
    LazyTensor: _lazy,
    ValueWithInfo: _noted,
}
