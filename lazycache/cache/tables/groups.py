"""Rows in groups: by a column of the tables, or by an expression over them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch

from lazycache.errors import QueryError, nearest
from lazycache.faces.html import card, dtype_name, facts, table, vector

if TYPE_CHECKING:
    import pyarrow as pa

Part = TypeVar("Part")
"""What a group is: a lazy tensor of its rows, or a tensor of its result."""


def encoded(values: pa.Array) -> pa.Array:
    """Return a column as numbers of its distinct values.

    Raises:
        QueryError: a value is a list or a struct, by which rows are not grouped.
    """
    import pyarrow as pa  # loaded when it is used: reading tensors does without

    if pa.types.is_nested(values.type):
        raise QueryError(
            f"group_by takes one value for each row, not {values.type}: one unit, unit(site, i)."
        )
    return values if pa.types.is_dictionary(values.type) else values.dictionary_encode()


def numbered(column: pa.ChunkedArray) -> tuple[tuple[Any, ...], np.ndarray]:
    """Return the values of an encoded column, sorted, None last; and the place of each row's."""
    import pyarrow as pa
    from pyarrow import compute

    found = column.unify_dictionaries().combine_chunks()
    array = found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    values = array.dictionary
    used = np.bincount(codes[codes >= 0], minlength=len(values)) > 0
    order = compute.sort_indices(values).to_numpy()
    order = order[used[order]]
    place = np.full(len(values) + 1, len(order), dtype=np.int64)  # the last one is of NULL
    place[order] = np.arange(len(order))
    keys = values.take(pa.array(order)).to_pylist()
    return (*keys, *([None] if (codes < 0).any() else [])), place[codes]


class ByKey(Generic[Part]):
    """Groups by their key, in its order; None, of rows without a value, is the last."""

    def __init__(self, keys: tuple[Any, ...]) -> None:
        self.keys = keys
        """The value of each group."""
        self._places = {_findable(key): place for place, key in enumerate(keys)}

    if TYPE_CHECKING:

        def part(self, place: int) -> Part:
            """Return the group of a place."""
            ...

    def __getitem__(self, key: Any) -> Part:
        return self.part(self.place(key))

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[Any, Part]]:
        """Yield (key, group)."""
        return ((key, self.part(place)) for place, key in enumerate(self.keys))

    def __contains__(self, key: object) -> bool:
        return _findable(key) in self._places

    def place(self, key: Any) -> int:
        """Return the place of a key.

        Raises:
            QueryError: there is no such group; names the nearest.
        """
        try:
            return self._places[_findable(key)]
        except (KeyError, TypeError) as exc:
            there = nearest(str(key), map(str, self.keys))
            raise QueryError(f"there is no group {key!r}. {there}") from exc


def _findable(key: Any) -> Any:
    """Return a key that is equal to itself: one NaN for all of them."""
    return math.nan if isinstance(key, float) and math.isnan(key) else key


class GroupResult(ByKey[torch.Tensor]):
    """One result for each group: `result["x"]`, or all, `result.values` in order of `result.keys`.

    Iterating gives (key, tensor).
    """

    def __init__(self, keys: tuple[Any, ...], values: torch.Tensor) -> None:
        super().__init__(keys)
        self.values = values
        """[groups, *row]."""

    def part(self, place: int) -> torch.Tensor:
        """Return the result of the group of a place."""
        return self.values[place]

    def __repr__(self) -> str:
        shown = ", ".join(repr(key) for key in self.keys[:SHOWN])
        more = f", ... {len(self):,} groups" if len(self) > SHOWN else ""
        dtype = dtype_name(self.values.dtype)
        return f"GroupResult({shown}{more}: shape={list(self.values.shape)}, dtype={dtype})"

    def _repr_html_(self) -> str:
        """Show each group in a notebook: its number, or the first ones of a row and its norm."""
        flat = self.values[:LINES].reshape(min(len(self), LINES), -1)
        said = facts([("shape", list(self.values.shape)), ("dtype", dtype_name(self.values.dtype))])
        if flat.shape[1] == 1:
            rows = [[str(k), v] for k, v in zip(self.keys, flat[:, 0].tolist(), strict=False)]
            shown = table(("group", "value"), rows, left=("group",), more=len(self) - LINES)
        else:
            rows = [
                [str(key), vector(row.tolist()), float(row.double().norm())]
                for key, row in zip(self.keys, flat, strict=False)
            ]
            names = ("group", "row", "norm")
            shown = table(names, rows, left=names[:2], more=len(self) - LINES)
        return card(f"{len(self)} groups", said, shown, kind="GroupResult")


SHOWN = 8
"""Keys in a repr."""

LINES = 40
"""Groups that are shown in a notebook."""
