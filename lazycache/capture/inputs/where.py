"""Which examples of a batch are recorded at all, asked of a function of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lazycache.errors import CaptureError

Where = Callable[[Mapping[str, Any]], Any]
"""Function of the inputs of a forward pass by name, its `example` ids and its columns: a bool for
all examples, or one for each."""


def check_where(where: object) -> None:
    """Refuse what cannot be asked.

    Raises:
        CaptureError: not a function.

    Example:
        >>> check_where(lambda batch: True)
    """
    if where is not None and not callable(where):
        raise CaptureError(
            f"where={where!r:.60} cannot be called. Give a function of the batch (the model's "
            "inputs by name, example, columns) that returns True for examples to record."
        )


def asked_examples(
    where: Where | None,
    named: Mapping[str, Any],
    *,
    ids: Sequence[int],
    columns: Mapping[str, Sequence[Any]],
) -> np.ndarray | None:
    """Return the examples to record by their number in the batch; None is all of them.

    Raises:
        CaptureError: the function returned something else than bools.

    Example:
        >>> batch = {"label": ["a", "b"]}
        >>> asked_examples(lambda b: [x == "b" for x in b["label"]], {}, ids=[7, 8], columns=batch)
        array([1])
    """
    if where is None:
        return None
    answer = where({**named, **columns, "example": list(ids)})
    keep = _as_mask(answer, len(ids))
    return None if keep.all() else np.flatnonzero(keep)


def _as_mask(answer: object, batch: int) -> np.ndarray:
    listed = answer.tolist() if isinstance(answer, torch.Tensor | np.ndarray) else answer
    if isinstance(listed, bool | np.bool_):
        return np.full(batch, bool(listed))
    if (
        not isinstance(listed, list | tuple)
        or len(listed) != batch
        or not all(isinstance(item, bool | np.bool_) for item in listed)
    ):
        shape = list(answer.shape) if isinstance(answer, torch.Tensor | np.ndarray) else ""
        raise CaptureError(
            f"where returned {type(answer).__name__} {shape or repr(answer)[:60]}; True or False "
            f"is needed, or {batch} of them, one for each example."
        )
    return np.array(listed, dtype=bool)
