"""One stack of layers in one forward pass: which of its positions become rows of which table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from lazycache.capture.device.staging import Staged, Staging
from lazycache.capture.inputs.forward_inputs import ForwardInputs
from lazycache.capture.values.select import Chosen, Rows, select_rows, take_rows


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The encoder, the decoder, or the whole of a model that has but one."""

    table: str
    """The table of its rows: `tokens`, or `decoder_tokens`."""
    inputs: ForwardInputs
    """What it was called with."""
    rows: Rows | None
    """Which of its tokens are kept; None if it has no sequences."""
    staging: Staging = field(default_factory=Staging)
    """Takes what is kept to the host."""
    ids: Staged | None = None
    """Its token ids on their way there; None if there are none, or they are there."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Further columns of its rows."""
    grows: bool = False
    """Whether it is a step of a generation: attention is to tokens of earlier steps too, and a
    cache may show less or more than there are."""
    _flat: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Return the kept rows of [batch, length, ...] or [batch * length, ...], on their device.

        Cost: as `take_rows`; which rows they are goes to each device once.
        """
        assert self.rows is not None, "a site is placed among tokens only if there are some"
        flat = self._flat.get(values.device)
        if flat is None and self.rows.is_whole:
            flat = torch.from_numpy(self.rows.flat)  # not needed there
        elif flat is None:
            flat = self.staging.send(torch.from_numpy(self.rows.flat), values.device)
            self._flat[values.device] = flat
        return take_rows(values, self.rows, flat=flat, empty=self.staging.empty)

    def token_ids(self) -> np.ndarray | None:
        """Return the ids of all its positions, in order; None if it was given none.

        Cost: waits until they are on the host.
        """
        if self.ids is not None:
            return self.ids.wait().numpy().reshape(-1)
        ids = self.inputs.input_ids
        return None if ids is None else ids.detach().cpu().numpy().reshape(-1)

    def counts(self) -> np.ndarray:
        """Return how many rows each example of the batch has: int64[batch]."""
        assert self.rows is not None, "rows are counted only if there are some"
        return np.bincount(self.rows.example, minlength=self.inputs.batch)


def make_stack(
    table: str,
    inputs: ForwardInputs,
    *,
    positions: Chosen,
    kept: np.ndarray | None,
    staging: Staging,
) -> Stack:
    """Select the rows of a stack, and send its token ids to the host.

    Raises:
        CaptureError: see `select_rows`.

    Example:
        >>> from lazycache.capture.inputs.forward_inputs import read_inputs
        >>> inputs = read_inputs({"input_ids": torch.ones(2, 3).long()}, mask=None)
        >>> stack = make_stack("tokens", inputs, positions=-1, kept=None, staging=Staging())
        >>> stack.rows.flat, stack.token_ids()
        (array([2, 5]), array([1, 1, 1, 1, 1, 1]))
    """
    rows = None
    if inputs.mask is not None:
        rows = select_rows(inputs.mask, positions=positions, input_ids=inputs.input_ids, kept=kept)
    ids = None
    if inputs.input_ids is not None:
        ids = staging.copy(inputs.input_ids, source=None)
    return Stack(table, inputs, rows, staging=staging, ids=ids)
