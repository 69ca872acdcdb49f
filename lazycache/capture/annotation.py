"""What a user says of the examples of the next forward pass, checked when it is said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lazycache.capture.columns import Scalar, as_column, as_ids, check_name
from lazycache.errors import CaptureError

_MASK_NDIM = 2


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """Ids, mask and columns for one batch."""

    ids: list[int] | None = None
    """Ids of its examples; None counts them."""
    mask: torch.Tensor | None = None
    """bool[batch, length], True for real tokens; None takes the model's `attention_mask`."""
    columns: Mapping[str, list[Scalar]] = field(default_factory=dict)
    """One value per example."""

    def ids_for(self, batch: int, *, counted_from: int) -> list[int]:
        """Return the ids of a batch of this size, counted if none were given.

        Raises:
            CaptureError: there are not as many ids as examples.
        """
        if self.ids is None:
            return list(range(counted_from, counted_from + batch))
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
    return Annotation(ids, None if mask is None else _as_mask(mask), plain)


def _as_mask(mask: Any) -> torch.Tensor:
    tensor = torch.as_tensor(mask)
    if tensor.ndim != _MASK_NDIM:
        raise CaptureError(f"mask has shape {tuple(tensor.shape)}; [batch, length] is needed.")
    return tensor != 0
