"""The stacks of layers that run in one forward pass, and where the values of a site belong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lazycache.capture.inputs.decoders import in_encoder, is_of_decoder, labels_mask
from lazycache.capture.inputs.forward_inputs import read_inputs
from lazycache.capture.stack import Stack, make_stack
from lazycache.capture.values.placement import check_batch_axis, readings_of, table_of
from lazycache.capture.values.select import Chosen
from lazycache.capture.values.site_plan import Place, SitePlan
from lazycache.capture.values.tensors import first_tensor
from lazycache.errors import CaptureError
from lazycache.types import DECODER_TOKENS, TOKENS


class Stacks:
    """The model, or its encoder and, once it was called, its decoder.

    Args:
        main: The model, or its encoder.
        named: What the model was called with, by name.
        decodes: Whether a decoder is watched (`begin_decoder` is called), which has its own rows.
        kept: Examples that are recorded, by their number in the batch; None is all.
    """

    def __init__(
        self, main: Stack, named: Mapping[str, Any], *, decodes: bool, kept: np.ndarray | None
    ) -> None:
        self.main = main
        self.kept = kept
        self._decodes = decodes
        self._labelled = labels_mask(named) if decodes else None
        self._decoder: Stack | None = None
        self._encoded: torch.Tensor | None = None

    def all(self) -> list[Stack]:
        """Return the stacks that ran so far."""
        return [self.main] if self._decoder is None else [self.main, self._decoder]

    def begin_decoder(self, named: Mapping[str, Any], *, positions: Chosen) -> None:
        """Understand what the decoder is called with, by name.

        Raises:
            CaptureError: its arguments are not understood, or it is called a second time.
        """
        if self._decoder is not None:
            raise CaptureError(
                "The forward pass calls its decoder twice, so there is no telling which rows are "
                "meant. Capture the decoder by itself."
            )
        masked = named.get("attention_mask") is not None
        inputs = read_inputs(named, mask=None if masked else self._labelled)
        batch = self.main.inputs.batch
        if inputs.batch != batch:
            raise CaptureError(
                f"The decoder has a batch of {inputs.batch}, the encoder of {batch}: rows of both "
                "must belong to the same examples."
            )
        self._decoder = make_stack(
            DECODER_TOKENS,
            inputs,
            positions=positions,
            kept=self.kept,
            staging=self.main.staging,
        )
        self._encoded = first_tensor(named.get("encoder_hidden_states"))

    def place(
        self,
        plan: SitePlan,
        values: torch.Tensor,
        source: torch.Tensor | None,
        *,
        before: str | None,
    ) -> Place | None:
        """Say where the values of a site belong.

        None: the call is not of this name. A module may be shared by both stacks; then each of its
        names means the calls of its own.

        Raises:
            CaptureError: a shape that fits no table, or not `before`.
        """
        if not self._is_call_of(plan):
            return None
        stack = self._stack_of(plan, values, source, before)
        table = stack.table if plan.is_ragged else _table_in(stack, plan, values, before)
        return Place(table, stack, self.main if plan.is_cross else stack, self.kept)

    def _is_call_of(self, plan: SitePlan) -> bool:
        if not self._decodes:
            return True
        if self._decoder is None:
            return not is_of_decoder(plan.point)
        return plan.point.table is not None or not in_encoder(plan.point.path)

    def _stack_of(
        self,
        plan: SitePlan,
        values: torch.Tensor,
        source: torch.Tensor | None,
        before: str | None,
    ) -> Stack:
        decoder = self._decoder
        must = plan.point.table or before
        if decoder is None or must == TOKENS:
            return self.main
        if must == DECODER_TOKENS:
            return decoder
        if source is not None and self._encoded is not None and _same(source, self._encoded):
            return self.main  # keys and values of cross attention are rows of the encoder's tokens
        shape = tuple(values.shape)
        fits_main = TOKENS in readings_of(shape, self.main.inputs)
        return self.main if fits_main and not readings_of(shape, decoder.inputs) else decoder


def _table_in(stack: Stack, plan: SitePlan, values: torch.Tensor, before: str | None) -> str:
    if plan.length_first:
        check_batch_axis(plan.name, stack.inputs)
    table = table_of(
        plan.name,
        values,
        stack.inputs,
        before=_shaped_as(before),
        widths=plan.widths,
        table=_shaped_as(plan.point.table),
    )
    return stack.table if table == TOKENS else table


def _shaped_as(table: str | None) -> str | None:
    """Return what `table_of` calls a table: it knows rows of tokens and rows of examples."""
    return TOKENS if table == DECODER_TOKENS else table


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are one, or a view of all of it."""
    return one.shape == other.shape and one.data_ptr() == other.data_ptr()
