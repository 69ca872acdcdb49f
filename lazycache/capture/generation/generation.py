"""Forward passes that continue each other become one: `generate`, or a loop over a cache.

Each pass keeps the rows of the tokens that are new in it. At the end they are put together, each
example's rows one behind the other, as one forward pass over the finished sequences would have
given them, to rounding; `step` says which of them were generated. Until then they are held on the
host: as much as that one forward pass would have given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lazycache.capture.device.staging import Staging
from lazycache.capture.forward_pass import ForwardPass
from lazycache.capture.generation.continuation import KnownCaches, cached_tokens, given_cache
from lazycache.capture.generation.generate_call import GenerateCall
from lazycache.capture.generation.growing_rows import (
    GrowingRows,
    GrownRows,
    merge_ragged,
    merge_rows,
)
from lazycache.capture.generation.step_mask import StepMask
from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.forward_inputs import ForwardInputs
from lazycache.capture.stack import Stack
from lazycache.capture.stacks import Stacks
from lazycache.capture.values.calls import Piece
from lazycache.capture.values.select import Chosen
from lazycache.capture.values.site_plan import Place, SitePlan, pool_piece
from lazycache.errors import CaptureError
from lazycache.types import TOKENS

STEP = "step"
"""Column of `tokens`: 0 for the prompt, k for the k-th generated token."""


class Generation:
    """A batch of sequences while they grow, pass by pass.

    Args:
        call: The call of `generate` that it belongs to; None: a loop of the user's.
        positions: Which tokens become rows, of the finished sequences.
    """

    def __init__(self, call: GenerateCall | None, *, positions: Chosen) -> None:
        self.call = call
        self._growing = GrowingRows(positions)
        self._masks = StepMask(call, self._growing)
        self._caches = KnownCaches()
        self._given: Any = None
        self._passes: list[ForwardPass] = []
        self._running = False

    @property
    def passes(self) -> int:
        """Forward passes that came to their end."""
        return len(self._passes)

    @property
    def is_whole(self) -> bool:
        """Whether there is something, and no pass of it runs."""
        return bool(self._passes) and not self._running

    def is_continued_by(self, named: Mapping[str, Any]) -> bool:
        """Say whether a forward pass continues this one: it is given its cache."""
        cache = given_cache(named)
        return cache is not None and cache in self._caches and cached_tokens(cache) != 0

    def mask_of(self, named: Mapping[str, Any], said: Annotation | None) -> torch.Tensor:
        """Return which tokens that a pass is fed are real and new: bool[batch, width].

        Raises:
            CaptureError: the pass is not the next of this generation, or something else is said of
                it than of the first.
        """
        self._running, self._given = True, given_cache(named)
        if self._passes and said is not None:
            raise CaptureError(
                "annotate() was called in the middle of a generation. What it says holds for the "
                "whole of it: call it before the first forward pass (before generate)."
            )
        return self._masks.of(named, said=None if said is None else said.mask)

    def expanded(self, annotation: Annotation, batch: int) -> Annotation:
        """Return what was said of the prompts as said of the sequences generated from them.

        Columns repeat for each of several sequences of a prompt; ids cannot.
        """
        copies = 1 if self.call is None else self.call.copies
        if copies == 1 or annotation.ids is not None:
            return annotation
        columns = {
            name: [value for value in values for _ in range(copies)]
            for name, values in annotation.columns.items()
            if len(values) * copies == batch
        }
        return replace(annotation, columns={**annotation.columns, **columns})

    def stack(self, inputs: ForwardInputs, *, kept: np.ndarray | None, staging: Staging) -> Stack:
        """Return the rows to keep of a pass; `inputs` has the mask of `mask_of`."""
        assert inputs.length is not None, "a generation has sequences"
        ids = None if inputs.input_ids is None else inputs.input_ids[:, -self._masks.new :]
        rows = self._growing.extend(self._masks.mask, ids, width=inputs.length, kept=kept)
        return Stack(TOKENS, inputs, rows, staging=staging, grows=True)

    def next_pass(self, inputs: ForwardInputs) -> ForwardPass:
        """Return a forward pass that continues the first one."""
        first = self._passes[0]
        kept = first.stacks.kept
        main = self.stack(inputs, kept=kept, staging=first.stacks.main.staging)
        stacks = Stacks(main, {}, decodes=False, kept=kept)
        return ForwardPass(stacks, first.annotation, first.columns, first.awaited)

    def end_pass(self, current: ForwardPass, returned: Any) -> None:
        """Keep what a pass gave; `returned` is the cache that it gave back.

        Raises:
            CaptureError: a site that has rows per example: there is no one row of a generation.
        """
        for name, table in current.placed.items():
            if table != TOKENS:
                raise CaptureError(
                    f"{name} gave rows of {table} in a step of a generation: each step gives other "
                    "ones, and an example has one. Leave it out, or run the model once over the "
                    "finished sequences."
                )
        self._passes.append(current)
        self._running = False
        self._caches.add([self._given, returned])
        if self.call is not None:
            self.call.seen = self._growing.columns

    def finish(self, plans: Mapping[str, SitePlan]) -> ForwardPass:
        """Put the passes together: one forward pass over all that the model read.

        Cost: waits until their values are on the host, and copies them once.

        Raises:
            CaptureError: an example is too short for the selection; a site was met more often in
                one pass than in another.
        """
        first, prompt = self._passes[0], self._masks.prompt
        kept = first.stacks.kept
        tokens = None if self.call is None else self.call.tokens()
        grown = self._growing.finish(prompt=prompt, tokens=tokens, kept=kept)
        inputs = ForwardInputs(first.batch, self._growing.columns, grown.input_ids, grown.mask)
        step = np.maximum(grown.column - prompt + 1, 0).astype(np.int32)
        stack = Stack(TOKENS, inputs, grown.rows, columns={STEP: step})
        place = Place(TOKENS, stack, stack, kept)
        pieces = {
            name: {
                call: pool_piece(plans[name], self._merged(name, call, grown), place)
                for call in self._calls(name)
            }
            for name in first.pieces
        }
        return replace(first, stacks=Stacks(stack, {}, decodes=False, kept=kept), pieces=pieces)

    def _calls(self, name: str) -> Iterable[int]:
        """Return the calls that each pass made of a site."""
        calls = [each.pieces[name].keys() for each in self._passes]
        other = next((found for found in calls if found != calls[0]), None)
        if other is not None:
            raise CaptureError(
                f"{name} was met {len(calls[0])} times in the first forward pass of a generation "
                f"and {len(other)} times in another. Name one of the calls: '@0'."
            )
        return list(calls[0])

    def _merged(self, name: str, call: int, grown: GrownRows) -> Piece:
        pieces = [each.pieces[name][call] for each in self._passes]
        for piece in pieces:
            piece.wait()
        values, rows = [piece.values for piece in pieces], len(grown.rows.flat)
        widths = [piece.widths for piece in pieces if piece.widths is not None]
        lost = [piece.lost for piece in pieces if piece.lost is not None]
        total = sum(lost[1:], start=lost[0]) if lost else None
        if not widths:
            merged = merge_rows(values, grown.places, rows=rows)
            return replace(pieces[0], values=merged, lost=total, staged=())
        ragged, width = merge_ragged(values, widths, grown.places, rows=rows)
        return replace(pieces[0], values=ragged, widths=width, lost=total, staged=())


def per_pass(plan: SitePlan) -> SitePlan:
    """Return what is done to a site in each pass: what takes the whole sequence waits for its end.

    The rows of an example are pooled, and what was pooled is cast, when all of them are there.
    """
    if plan.reduction.pool is None:
        return plan
    return replace(plan, reduction=replace(plan.reduction, pool=None), dtype=None)
