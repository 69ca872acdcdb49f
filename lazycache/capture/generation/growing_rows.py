"""The rows of a batch that grows by forward passes: a pass adds tokens to each of its examples.

Seen as a rectangle [batch, positions], padding included: a pass adds columns on the right. Which of
their tokens become rows is known only at the end (where did each example end, which is its last
token?), so a pass keeps what may become one, and at the end rows are put in order: each example's
one behind the other, as one forward pass over the finished sequences would give them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.capture.values.select import Chosen, Rows, select_rows


@dataclass(frozen=True, slots=True, eq=False)
class GrownRows:
    """The rows of a finished batch."""

    rows: Rows
    """As `select_rows` gives them for the rectangle."""
    input_ids: torch.Tensor | None
    """int[batch, positions]; None if some were not given as ids."""
    mask: torch.Tensor
    """bool[batch, positions]: tokens of the examples, selected or not."""
    column: np.ndarray
    """int64[rows]: where in the rectangle a row's token is."""
    places: list[np.ndarray]
    """For each pass, int64[rows it kept]: which row each of them is; -1 if none after all."""


class GrowingRows:
    """Collects the tokens of passes.

    Example:
        >>> growing = GrowingRows(-1)
        >>> prompt = growing.extend(torch.tensor([[True, True]]), torch.tensor([[5, 6]]), width=2)
        >>> step = growing.extend(torch.tensor([[True]]), torch.tensor([[7]]), width=1)
        >>> prompt.flat.tolist(), step.flat.tolist()
        ([1], [0])
        >>> grown = growing.finish(prompt=2, tokens=[1])
        >>> grown.rows.position.tolist(), grown.input_ids.tolist(), grown.places
        ([2], [[5, 6, 7]], [array([-1]), array([0])])
    """

    def __init__(self, positions: Chosen) -> None:
        self._positions = positions
        self._ids: list[torch.Tensor | None] = []
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.mask: np.ndarray = np.zeros((0, 0), dtype=bool)
        """bool[batch, columns]: real tokens so far, on the host."""

    @property
    def columns(self) -> int:
        """Positions that the passes have added so far, padding included."""
        return int(self.mask.shape[1])

    @property
    def input_ids(self) -> torch.Tensor | None:
        """int[batch, columns] so far; None if some were not given as ids."""
        parts = [ids for ids in self._ids if ids is not None]
        return torch.cat(parts, dim=1) if parts and len(parts) == len(self._ids) else None

    def extend(
        self,
        mask: torch.Tensor,
        ids: torch.Tensor | None,
        *,
        width: int,
        kept: np.ndarray | None = None,
    ) -> Rows:
        """Add the tokens of a pass; return which of them to keep for now.

        Their `real` is of all positions so far, which are what the new ones attend to.

        Args:
            mask: bool[batch, new]: which of the new columns are real tokens.
            ids: int[batch, new], or None.
            width: Positions in the tensors of this pass: more than `new` if it reads what was
                there before again, from which no row is kept.
            kept: Examples that have rows, by their number in the batch; None is all.
        """
        real = mask.cpu().numpy()
        before = self.mask if self._kept else np.zeros((len(real), 0), dtype=bool)
        seen = before.sum(1, dtype=np.int64)
        position = seen[:, None] + np.cumsum(real, axis=1) - 1
        keep = np.zeros((len(real), width), dtype=bool)
        chosen = slice(None) if kept is None else kept
        may_be = real & _may_be_row(position, real, self._positions)
        keep[chosen, width - real.shape[1] :] = may_be[chosen]
        flat = np.flatnonzero(keep)
        example, column = flat // width, flat % width + real.shape[1] - width
        self._kept.append((example, column + before.shape[1]))
        self._ids.append(ids)
        self.mask = np.concatenate([before, real], axis=1)
        return Rows(
            batch=len(real),
            length=width,
            flat=flat,
            example=example,
            position=position[example, column].astype(np.int32),
            lengths=seen + real.sum(1, dtype=np.int64),
            keep=keep,
            real=self.mask,
        )

    def finish(
        self, *, prompt: int, tokens: Sequence[int] | None, kept: np.ndarray | None = None
    ) -> GrownRows:
        """Return the rows.

        Args:
            prompt: Columns of the prompt.
            tokens: How many tokens after it each example has; what follows is padding. None: all.
            kept: As of `extend`.

        Raises:
            CaptureError: an example is too short for the selection.
        """
        real = self.mask
        if tokens is not None:
            real = real & (np.arange(self.columns) < prompt + np.asarray(tokens)[:, None])
        ids = self.input_ids
        mask = torch.from_numpy(real)
        mask = mask if ids is None else mask.to(ids.device)
        rows = select_rows(mask, positions=self._positions, input_ids=ids, kept=kept)
        return GrownRows(rows, ids, mask, rows.flat % self.columns, self._places(rows))

    def _places(self, rows: Rows) -> list[np.ndarray]:
        row_at = np.full(rows.batch * self.columns, -1, dtype=np.int64)
        row_at[rows.flat] = np.arange(len(rows.flat))
        return [row_at[example * self.columns + column] for example, column in self._kept]


def _may_be_row(position: np.ndarray, real: np.ndarray, positions: Chosen) -> np.ndarray:
    """Say which tokens of a pass can be rows of the finished batch, as far as it is known now."""
    if isinstance(positions, int):
        return _may_be_row(position, real, [positions])
    if isinstance(positions, list):
        among_last = _among_last(real, -min(*positions, 0)) if min(positions) < 0 else False
        return np.isin(position, [wanted for wanted in positions if wanted >= 0]) | among_last
    if isinstance(positions, slice):
        return _may_be_in(positions, position, real)
    return np.ones_like(real)  # a function is asked at the end


def _may_be_in(wanted: slice, position: np.ndarray, real: np.ndarray) -> np.ndarray:
    start, stop, step = wanted.start, wanted.stop, wanted.step or 1
    if step > 0 and (start or 0) >= 0 and (stop is None or stop >= 0):
        after = position - (start or 0)
        inside: np.ndarray = (after >= 0) & (after % step == 0)
        return inside if stop is None else inside & (position < stop)
    if step > 0 and start is not None and start < 0:
        return _among_last(real, -start)  # the last tokens of all are among the last of their pass
    return np.ones_like(real)


def _among_last(real: np.ndarray, count: int) -> np.ndarray:
    behind: np.ndarray = np.cumsum(real[:, ::-1], axis=1)[:, ::-1]
    return behind <= count


def merge_rows(
    parts: Sequence[torch.Tensor], places: Sequence[np.ndarray], *, rows: int
) -> torch.Tensor:
    """Put the rows of passes in their places.

    Cost: one copy, with another of a pass of which not all rows are wanted.

    Example:
        >>> parts = [torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [9.0]])]
        >>> merge_rows(parts, [np.array([0, 2]), np.array([1, -1])], rows=3)
        tensor([[1.],
                [2.],
                [3.]])
    """
    merged = parts[0].new_empty((rows, *parts[0].shape[1:]))
    for values, place in zip(parts, places, strict=True):
        wanted = torch.from_numpy(place >= 0)
        to = torch.from_numpy(place[place >= 0])
        merged[to] = values if bool(wanted.all()) else values[wanted]
    return merged


def merge_ragged(
    parts: Sequence[torch.Tensor],
    widths: Sequence[np.ndarray],
    places: Sequence[np.ndarray],
    *,
    rows: int,
) -> tuple[torch.Tensor, np.ndarray]:
    """Do the same with rows of their own widths, which lie one behind the other in flat parts.

    Example:
        >>> parts, widths = [torch.tensor([1, 2, 5])], [np.array([2, 1], dtype=np.int32)]
        >>> merge_ragged(parts, widths, [np.array([1, 0])], rows=2)
        (tensor([5, 1, 2]), array([1, 2], dtype=int32))
    """
    ordered: list[torch.Tensor] = [parts[0]] * rows
    width = np.empty(rows, dtype=np.int32)
    for values, each, place in zip(parts, widths, places, strict=True):
        width[place[place >= 0]] = each[place >= 0]
        for piece, to in zip(_pieces(values, each), place.tolist(), strict=True):
            if to >= 0:
                ordered[to] = piece
    return torch.cat(ordered) if ordered else parts[0][:0], width


def _pieces(values: torch.Tensor, widths: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Cut flat values into their rows; each has as many elements per unit of width."""
    elements = len(values) // max(int(widths.sum()), 1)
    sizes: list[int] = (widths.astype(np.int64) * elements).tolist()
    return torch.split(values, sizes) if sizes else ()
