"""Which positions of a batch become rows, and the gather of these rows where the values are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.capture.values.convert import Empty, new_memory
from lazycache.errors import CaptureError

Positions = (
    str | int | slice | Sequence[int] | Callable[[torch.Tensor | None, torch.Tensor], torch.Tensor]
)
"""`all | last | first | "last-k" | int | slice | list | callable(input_ids, mask)`."""

Chosen = int | slice | list[int] | Callable[[torch.Tensor | None, torch.Tensor], torch.Tensor]
"""The same, words resolved to numbers."""

_LAST_K = re.compile(r"last-([1-9]\d*)")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows that one batch of sequences gives. Position counts real tokens, from 0."""

    batch: int
    """Examples in the batch."""
    length: int
    """Positions per example in the batch, padding included."""
    flat: np.ndarray
    """int64[rows]: index into the flattened [batch * length], ascending."""
    example: np.ndarray
    """int64[rows]: which example of the batch."""
    position: np.ndarray
    """int32[rows]: which real token of that example."""
    lengths: np.ndarray
    """int64[batch]: real tokens of each example, selected or not."""
    keep: np.ndarray
    """bool[batch, length]: the tokens that are rows."""
    real: np.ndarray
    """bool[batch, length]: the tokens that are no padding, selected or not."""

    @property
    def is_whole(self) -> bool:
        """Whether every position of the batch is a row, so that nothing needs gathering."""
        return len(self.flat) == self.batch * self.length


def check_positions(positions: Positions) -> Chosen:
    """Resolve the words of a selection and refuse what is none.

    `first` and `last` are the first and last real token, `last-k` the k-th from the end (`last-1`
    is `last`), an int one token, counted from the end if negative. An example that is too short for
    an int or a list is an error later; a slice takes what there is, as in Python.

    Raises:
        CaptureError: not a selection.

    Example:
        >>> check_positions("last-3"), check_positions("all")
        (-3, slice(None, None, None))
    """
    words: dict[str, Chosen] = {"all": slice(None), "first": 0, "last": -1}
    if isinstance(positions, str):
        last_k = _LAST_K.fullmatch(positions)
        if positions in words:
            return words[positions]
        if last_k:
            return -int(last_k[1])
    elif isinstance(positions, slice):
        if _is_slice_of_ints(positions):
            return positions
    elif callable(positions):
        return positions
    elif isinstance(positions, int | np.integer):
        if not isinstance(positions, bool):
            return int(positions)
    elif _is_list(positions):
        return sorted({int(position) for position in positions})
    raise CaptureError(
        f"positions={positions!r} is no selection. It can be 'all', 'first', 'last', 'last-k', an "
        "int, a slice, a list of ints, or a function of (input_ids, mask) that returns a mask."
    )


def _is_slice_of_ints(positions: slice) -> bool:
    try:
        range(0)[positions]
    except (TypeError, ValueError):  # bounds that are no ints; a step of 0
        return False
    return True


def _is_list(value: object) -> bool:
    if not isinstance(value, Sequence | np.ndarray) or not len(value):
        return False
    return all(isinstance(item, int | np.integer) and not isinstance(item, bool) for item in value)


def select_rows(
    mask: torch.Tensor,
    *,
    positions: Chosen,
    input_ids: torch.Tensor | None,
    kept: np.ndarray | None = None,
) -> Rows:
    """Return the rows of a batch: real tokens (mask [batch, length] is True) that are selected.

    Of examples that are not in `kept` (numbers in the batch; None is all) there are none.

    Cost: nothing waits for a device unless a function of the user does.

    Raises:
        CaptureError: an example is too short for the position; a function gave no mask.

    Example:
        >>> mask = torch.tensor([[0, 1, 1], [1, 1, 1]]) == 1
        >>> rows = select_rows(mask, positions=-1, input_ids=None)
        >>> rows.flat.tolist(), rows.position.tolist(), rows.lengths.tolist()
        ([2, 5], [1, 2], [2, 3])
    """
    real = mask.numpy()
    lengths = real.sum(1, dtype=np.int64)
    wanted = real if kept is None else _of_examples(real, kept)
    if callable(positions):
        keep = wanted & _asked(positions, mask, input_ids)
    elif positions == slice(None):
        keep = wanted
    else:
        keep = _chosen(wanted, positions, range(len(real)) if kept is None else kept.tolist())
    flat = np.flatnonzero(keep)
    counted = np.cumsum(real, axis=1, dtype=np.int32) - 1
    return Rows(
        batch=real.shape[0],
        length=real.shape[1],
        flat=flat,
        example=flat // real.shape[1],
        position=counted.reshape(-1)[flat],
        lengths=lengths,
        keep=keep,
        real=real,
    )


def _of_examples(real: np.ndarray, kept: np.ndarray) -> np.ndarray:
    wanted = np.zeros_like(real)
    wanted[kept] = real[kept]
    return wanted


def _chosen(
    real: np.ndarray, positions: int | slice | list[int], examples: Iterable[int]
) -> np.ndarray:
    """Select by numpy's own rules on the real tokens of each of these examples."""
    keep = np.zeros_like(real)
    for row in examples:
        where = np.flatnonzero(real[row])
        try:
            keep[row, where[positions]] = True
        except IndexError as exc:
            raise CaptureError(
                f"positions={positions!r}: example {row} of the batch has {len(where)} tokens. "
                "A slice takes what there is: positions=slice(i, i + 1)."
            ) from exc
    return keep


def _asked(
    select: Callable[[torch.Tensor | None, torch.Tensor], torch.Tensor],
    mask: torch.Tensor,
    input_ids: torch.Tensor | None,
) -> np.ndarray:
    # clones: the function may scribble on its arguments, padding must stay padding
    shown = mask.clone() if input_ids is None else mask.to(input_ids.device, copy=True)
    answer = select(None if input_ids is None else input_ids.clone(), shown)
    if (
        not isinstance(answer, torch.Tensor)
        or answer.dtype != torch.bool
        or answer.shape != mask.shape
    ):
        found = (
            f"{answer.dtype} {tuple(answer.shape)}"
            if isinstance(answer, torch.Tensor)
            else type(answer).__name__
        )
        raise CaptureError(
            f"The positions function returned {found}; a bool tensor {tuple(mask.shape)} is "
            "needed, True for tokens to keep."
        )
    chosen: np.ndarray = answer.cpu().numpy()
    return chosen


def take_rows(
    values: torch.Tensor, rows: Rows, *, flat: torch.Tensor, empty: Empty = new_memory
) -> torch.Tensor:
    """Gather rows out of [batch, length, *shape] or [batch * length, *shape], on their device.

    `flat` is `rows.flat` on that device, `empty` gives memory there. Nothing is copied if every
    position is a row: the result may then be a view.

    Example:
        >>> rows = select_rows(torch.tensor([[True, False]]), positions=0, input_ids=None)
        >>> take_rows(torch.tensor([[[7.0], [8.0]]]), rows, flat=torch.from_numpy(rows.flat))
        tensor([[7.]])
    """
    flattened = values.shape[0] == rows.batch * rows.length and not (
        values.ndim > 1 and values.shape[:2] == (rows.batch, rows.length)
    )
    if flattened:
        return values if rows.is_whole else _gathered(values, flat, empty)
    if rows.is_whole:
        return values.flatten(0, 1)
    if values.is_contiguous():
        return _gathered(values.flatten(0, 1), flat, empty)
    # flattening would first copy all of a tensor whose rows do not lie in order
    return values[flat // rows.length, flat % rows.length]


def _gathered(values: torch.Tensor, flat: torch.Tensor, empty: Empty) -> torch.Tensor:
    out = empty((len(flat), *values.shape[1:]), values.dtype, values.device)
    return torch.index_select(values, 0, flat, out=out)
