"""Which of the tokens that a pass of a generation is fed are new, and which of them are real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lazycache.capture.generation.continuation import (
    cached_tokens,
    given_cache,
    refuse_continuation,
)
from lazycache.capture.generation.generate_call import GenerateCall
from lazycache.capture.generation.growing_rows import GrowingRows
from lazycache.capture.inputs.masks import MASK_NDIM, real_tokens
from lazycache.errors import CaptureError

_TOKENS = ("input_ids", "inputs_embeds")


class StepMask:
    """Reads the arguments of one pass after the other.

    A pass with a cache is fed new tokens only; one without is fed everything again, and what is
    beyond the tokens so far is new. Masks are those of all tokens so far, or what the user says of
    the prompt. What `generate` feeds after the end of an example counts as real until its end is
    known.

    Args:
        call: The call of `generate`; None: a loop of the user's.
        growing: The tokens so far.
    """

    def __init__(self, call: GenerateCall | None, growing: GrowingRows) -> None:
        self._call = call
        self._growing = growing
        self._said: torch.Tensor | None = None
        self._batch = 0
        self._first = 0
        self.new = 0
        """Positions that the present pass adds."""
        self.mask = torch.zeros(0, 0, dtype=torch.bool)
        """bool[batch, new] of the present pass, on the host: the device is not asked again."""

    @property
    def prompt(self) -> int:
        """Positions of the prompt, padding included: of a loop, of its first pass.

        Raises:
            CaptureError: generate did not say.
        """
        if self._call is None:
            return self._first
        if self._call.prompt is None:
            raise CaptureError(
                "generate ended without having asked its stopping criteria, so it is not known "
                "where the prompt ends and which tokens are padding. Run the model once over the "
                "sequences that came out instead."
            )
        return self._call.prompt

    def of(self, named: Mapping[str, Any], *, said: torch.Tensor | None) -> torch.Tensor:
        """Return bool[batch, width] of what a pass is fed: True for tokens that are new and real.

        Args:
            named: The arguments of the model.
            said: bool[batch, length] of the prompt, from the user; of the first pass.

        Raises:
            CaptureError: the pass is not the next of its generation.
        """
        batch, width = _fed(named)
        if not self._growing.columns:
            refuse_continuation(named)
            self._batch, self._first, self._said = batch, width, self._prompt_mask(said, batch)
        self.new = self._check_next(named, batch, width)
        self.mask = self._new_mask(named)
        whole = torch.zeros(batch, width, dtype=torch.bool)
        whole[:, width - self.new :] = self.mask
        return whole

    def _prompt_mask(self, said: torch.Tensor | None, batch: int) -> torch.Tensor | None:
        if self._call is None:
            return said
        mask = self._call.mask if said is None else said
        if mask is None or len(mask) * self._call.copies != batch:
            return mask
        return mask.repeat_interleave(self._call.copies, 0)

    def _check_next(self, named: Mapping[str, Any], batch: int, width: int) -> int:
        """Return how many positions of the pass are new."""
        seen = self._growing.columns
        if batch != self._batch:
            raise CaptureError(
                f"A generation of {self._batch} examples was continued with {batch}. Each forward "
                "pass of it has the same examples; leave finished ones in, masked."
            )
        cache = given_cache(named)
        if seen and cache is None:
            self._check_prefix(named, width)
            return width - seen
        held = cached_tokens(cache)
        if held is not None and held != seen:
            raise CaptureError(
                f"The key-value cache holds {held} tokens of each example, but the forward passes "
                f"of this generation were given {seen}: it was cropped, or fed outside of the "
                "capture. Run the model once over the finished sequences instead."
            )
        return width

    def _check_prefix(self, named: Mapping[str, Any], width: int) -> None:
        """Refuse a pass that reads everything again if it reads something else."""
        before, ids, seen = self._growing.input_ids, named.get("input_ids"), self._growing.columns
        if before is None or ids is None or width <= seen or not torch.equal(ids[:, :seen], before):
            raise CaptureError(
                "A forward pass of this generation neither continues a key-value cache nor reads "
                "the same tokens and more. Run the model once over the finished sequences instead."
            )

    def _new_mask(self, named: Mapping[str, Any]) -> torch.Tensor:
        """Return bool[batch, new] on the host."""
        start, stop = self._growing.columns, self._growing.columns + self.new
        needed, said = (self._batch, stop), self._said
        if said is not None and start < said.shape[1]:
            if len(said) != self._batch or stop > said.shape[1]:
                raise _unfit(said, needed)
            return said[:, start:stop].cpu()
        given = named.get("attention_mask")
        is_answer = self._call is not None and self._call.prompt is not None
        if given is not None and not is_answer:
            if isinstance(given, torch.Tensor) and given.ndim == MASK_NDIM:
                if tuple(given.shape) != needed:
                    raise _unfit(given, needed)
                return self._continued(real_tokens(given, name="attention_mask").cpu())
            self._check_unpadded(named)
        return torch.ones(self._batch, self.new, dtype=torch.bool)

    def _continued(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the end of a mask of all tokens so far."""
        start = self._growing.columns
        if start and not np.array_equal(mask[:, :start].numpy(), self._growing.mask):
            raise CaptureError(
                "The attention mask says otherwise than before which tokens at the beginning of "
                "this generation are padding. Each forward pass needs the mask of all tokens so "
                "far."
            )
        return mask[:, start:]

    def _check_unpadded(self, named: Mapping[str, Any]) -> None:
        """Refuse a mask that is not one of tokens, unless there can be no padding."""
        ids, call = named.get("input_ids"), self._call
        if call is not None and (
            call.padding is None
            or (isinstance(ids, torch.Tensor) and not bool((ids == call.padding).any()))
        ):
            return
        raise CaptureError(
            "The attention mask is none of [batch, length] (a static cache takes another), so it "
            "does not say which tokens are padding. Give generate the attention_mask of the "
            "prompts, or annotate(mask=...)."
        )


def feeds_tokens(named: Mapping[str, Any]) -> bool:
    """Say whether the arguments of a forward pass have tokens [batch, length] to follow.

    Example:
        >>> feeds_tokens({"input_ids": torch.ones(1, 2).long()}), feeds_tokens({})
        (True, False)
    """
    return any(
        isinstance(named.get(name), torch.Tensor) and named[name].ndim >= MASK_NDIM
        for name in _TOKENS
    )


def _fed(named: Mapping[str, Any]) -> tuple[int, int]:
    """Return [batch, positions] of what a pass is fed."""
    for name in _TOKENS:
        given = named.get(name)
        if isinstance(given, torch.Tensor) and given.ndim >= MASK_NDIM:
            return given.shape[0], given.shape[1]
    raise CaptureError(
        "A forward pass of a generation has neither input_ids nor inputs_embeds [batch, length], "
        "so there is no telling which tokens it reads."
    )


def _unfit(mask: torch.Tensor, needed: tuple[int, int]) -> CaptureError:
    return CaptureError(
        f"The mask is {list(mask.shape)}; this generation needs [batch, tokens so far] = "
        f"{list(needed)}."
    )
