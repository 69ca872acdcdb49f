"""Trees of plain JSON to the values that they were; see `value_trees`. Trusts nothing. Pure."""

from __future__ import annotations

import binascii
import json
import sys
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.values.value_trees import INT_BITS, MOST_DEPTH, NUMPY_DTYPE, is_key
from lazycache.cache.values.value_with_info import ValueWithInfo
from lazycache.codec.dtypes import as_bytes
from lazycache.errors import CorruptShardError


class Decoder:
    """Turn a tree into its value; trusts nothing of it.

    Args:
        tensor: Gives the tensor of a number, in memory.
        ragged: Gives the lazy tensor of a number, for examples of these lengths.

    Example:
        >>> decoder = Decoder(lambda number: torch.zeros(number), ragged=lambda *_: None)
        >>> decoder.value({"dict": {"a": {"tuple": [1, {"tensor": 2}]}}})
        {'a': (1, tensor([0., 0.]))}
    """

    def __init__(
        self,
        tensor: Callable[[int], torch.Tensor],
        *,
        ragged: Callable[[int, list[int]], LazyTensor],
    ) -> None:
        self.tensor = tensor
        """Gives the tensor of a number."""
        self.ragged = ragged
        """Gives the lazy tensor of a number and lengths."""
        self._depth = 0

    def parsed(self, text: bytes) -> Any:
        """Return the value of a tree that is JSON.

        Raises:
            CorruptShardError: it is no tree of a value.
        """
        try:
            return self.value(json.loads(text))
        except CorruptShardError:
            raise
        except (
            ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError,
            RuntimeError, binascii.Error,
        ) as exc:  # fmt: skip
            raise CorruptShardError(f"not the tree of a value: {exc}") from exc

    def value(self, tree: Any) -> Any:
        """Return the value of a tree."""
        if type(tree) is list:
            return self.values(tree)
        if type(tree) is not dict:
            return tree
        if len(tree) != 1:
            raise CorruptShardError(f"not a kind of value: {str(tree)[:80]}")
        ((kind, content),) = tree.items()
        if kind not in _DECODERS:
            raise CorruptShardError(f"a value of the kind {kind!r:.80}, which is not known")
        return _DECODERS[kind](self, content)

    def values(self, trees: Any) -> list[Any]:
        """Return the values of trees that are in one container."""
        if type(trees) is not list:
            raise CorruptShardError(f"a list was expected, not {str(trees)[:80]}")
        self._depth += 1
        if self._depth > MOST_DEPTH + 1:
            raise CorruptShardError(f"a value nested deeper than {MOST_DEPTH} times")
        found = [self.value(tree) for tree in trees]
        self._depth -= 1
        return found


def _read_dict(decoder: Decoder, content: Any) -> dict[Any, Any]:
    if type(content) is not dict:
        raise CorruptShardError(f"a dict was expected, not {str(content)[:80]}")
    return dict(zip(content, decoder.values(list(content.values())), strict=True))


def _read_items(decoder: Decoder, content: Any) -> dict[Any, Any]:
    keys = decoder.values([key for key, _ in content])
    if not all(map(is_key, keys)):
        raise CorruptShardError(f"keys of a dict that are none: {str(content)[:80]}")
    return dict(zip(keys, decoder.values([item for _, item in content]), strict=True))


def _read_array(decoder: Decoder, content: Any) -> np.ndarray:
    number, dtype, shape = content
    raw = as_bytes(decoder.tensor(number).contiguous())
    array = _viewed(raw, dtype) if raw.nbytes else np.empty(0, _numpy(dtype))
    found: np.ndarray = array.reshape(shape)
    return found


def _read_scalar(_: Decoder, content: Any) -> Any:
    dtype, raw = content
    (value,) = _viewed(bytes.fromhex(raw), dtype)
    return value


def _viewed(raw: Any, name: Any) -> np.ndarray:
    """Return bytes as an array of a dtype."""
    dtype = _numpy(name)
    if dtype.kind == "U":  # numpy takes any word for a character, and stumbles over it later
        words = np.frombuffer(raw, np.dtype("u4").newbyteorder(dtype.byteorder))
        if words.max(initial=0) > sys.maxunicode:
            raise CorruptShardError("an array of texts with words that are no characters")
    return np.frombuffer(raw, dtype)


def _numpy(name: Any) -> np.dtype:
    if type(name) is not str or not NUMPY_DTYPE.fullmatch(name):
        raise CorruptShardError(f"not the dtype of an array: {name!r:.80}")
    return np.dtype(name)


def _read_float(_: Decoder, content: Any) -> float:
    if content not in ("nan", "inf", "-inf"):
        raise CorruptShardError(f"not a float: {content!r:.80}")
    return float(content)


def _read_noted(decoder: Decoder, content: Any) -> ValueWithInfo:
    value, info = decoder.values(content)
    return ValueWithInfo(value, info)


def _read_dtype(_: Decoder, content: Any) -> torch.dtype:
    dtype = vars(torch).get(content)  # not getattr, which imports what it is asked for
    if not isinstance(dtype, torch.dtype):
        raise CorruptShardError(f"not a dtype: {content!r:.80}")
    return dtype


def _read_ragged(decoder: Decoder, content: Any) -> LazyTensor:
    number, lengths = content
    return decoder.ragged(number, [_count(length) for length in lengths])


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << INT_BITS:
        raise CorruptShardError(f"not a count: {value!r:.80}")
    return value


_DECODERS: Mapping[str, Callable[[Decoder, Any], Any]] = {
    "tuple": lambda decoder, content: tuple(decoder.values(content)),
    "dict": _read_dict,
    "items": _read_items,
    "text": lambda _, content: b64decode(content, validate=True).decode("utf-8", "surrogatepass"),
    "float": _read_float,
    "int": lambda _, content: int(content, 16),
    "bytes": lambda _, content: b64decode(content, validate=True),
    "complex": lambda decoder, content: complex(*map(float, decoder.values(content))),
    "tensor": lambda decoder, content: decoder.tensor(content),
    "complex_tensor": lambda decoder, content: torch.view_as_complex(decoder.tensor(content)),
    "array": _read_array,
    "scalar": _read_scalar,
    "ragged": _read_ragged,
    "size": lambda _, content: torch.Size(map(_count, content)),
    "dtype": _read_dtype,
    "device": lambda _, content: torch.device(content),
    "noted": _read_noted,
}
