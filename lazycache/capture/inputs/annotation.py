"""What a user says of the examples of the next forward pass, checked when it is said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lazycache.capture.inputs.columns import (
    MAX_ID,
    Scalar,
    as_column,
    as_ids,
    as_mapping,
    check_name,
)
from lazycache.capture.inputs.masks import given_mask
from lazycache.errors import CaptureError


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """Ids, mask and columns for one batch."""

    ids: list[int] | None = None
    """Ids of its examples; None counts them."""
    mask: torch.Tensor | None = None
    """bool[batch, length], True for real tokens; None takes the model's `attention_mask`."""
    columns: Mapping[str, list[Scalar]] = field(default_factory=dict)
    """One value per example."""

    def ids_for(self, batch: int, *, counted_from: int, step: int = 1) -> list[int]:
        """Return the ids of a batch of this size, counted if none were given.

        Raises:
            CaptureError: there are not as many ids as examples, or the count is at its end.
        """
        if self.ids is None:
            if counted_from + (batch - 1) * step > MAX_ID:
                raise CaptureError(
                    f"Example ids are at their end: {batch} more after {counted_from - 1} do not "
                    "fit into 64 bits. Give smaller ones with annotate(example=...)."
                )
            return list(range(counted_from, counted_from + batch * step, step))
        if len(self.ids) != batch:
            raise CaptureError(f"{len(self.ids)} example ids were given for {batch} examples.")
        return self.ids

    def columns_for(self, batch: int, *, shared: Mapping[str, Scalar]) -> dict[str, list[Scalar]]:
        """Return the user columns of a batch; a column given for it goes before a shared value.

        Raises:
            CaptureError: a column does not have as many values as there are examples.
        """
        own = {name: as_column(name, values, rows=batch) for name, values in self.columns.items()}
        return {**{name: [value] * batch for name, value in shared.items()}, **own}


def make_annotation(
    *, example: Any, mask: Any, columns: Mapping[str, Any], sites: Collection[str]
) -> Annotation:
    """Check what a user gives and make it plain.

    Raises:
        CaptureError: ids that are no unique ints, columns that cannot be stored or whose name is
            taken, lengths that differ, a mask that is not [batch, length].

    Example:
        >>> make_annotation(example=[3], mask=None, columns={"label": ["x"]}, sites=[]).ids
        [3]
    """
    ids = None if example is None else as_ids(example)
    rows = None if ids is None else len(ids)
    plain: dict[str, list[Scalar]] = {}
    for name, values in columns.items():
        check_name(name, sites=sites)
        plain[name] = as_column(name, values, rows=rows)
        rows = len(plain[name])
    return Annotation(ids, None if mask is None else given_mask(mask), plain)


def merge_columns(columns: object, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `columns=` and those given as keywords as one.

    Raises:
        CaptureError: `columns` is no mapping, or a column is in both.

    Example:
        >>> merge_columns({"mask": [1]}, {"label": ["x"]})
        {'mask': [1], 'label': ['x']}
    """
    given = as_mapping(columns)
    twice = next((name for name in named if name in given), None)
    if twice is not None:
        raise CaptureError(f"Column {twice!r} was given twice: in columns= and as a keyword.")
    return {**given, **named}
