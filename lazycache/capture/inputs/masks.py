"""Masks of real tokens, however they are given: checked, so that padding is never stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from lazycache.errors import CaptureError

MASK_NDIM = 2
"""A mask is [batch, length]."""

_PADDING_MASK = re.compile("padding_mask")


def given_mask(mask: Any) -> torch.Tensor:
    """Return a mask that a user gives as bool[batch, length]: its own copy.

    Raises:
        CaptureError: it is no rectangle of numbers, or an additive mask.

    Example:
        >>> given_mask([[1, 0]])
        tensor([[ True, False]])
    """
    try:
        tensor = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise CaptureError(
            f"mask is {mask!r:.60}, which is no rectangle of numbers ({exc}). [batch, length] is "
            "needed, 1 for real tokens."
        ) from exc
    if tensor.ndim != MASK_NDIM:
        raise CaptureError(f"mask has shape {tuple(tensor.shape)}; [batch, length] is needed.")
    return real_tokens(tensor, name="mask")


def real_tokens(mask: torch.Tensor, *, name: str) -> torch.Tensor:
    """Return a mask of real tokens as bool: nonzero is real.

    Raises:
        CaptureError: an additive mask (0 for real tokens, large negative numbers for padding) or
            weights: read as truth they would store the padding and drop the text.

    Example:
        >>> real_tokens(torch.tensor([[1.0, 0.0]]), name="attention_mask")
        tensor([[ True, False]])
    """
    if mask.is_complex() or (mask.is_floating_point() and bool(((mask != 0) & (mask != 1)).any())):
        wrong = "other values than 0 and 1"
    elif mask.dtype.is_signed and bool((mask < 0).any()):
        wrong = "negative values"
    else:
        return mask != 0
    raise CaptureError(
        f"{name} ({mask.dtype}) holds {wrong}, as a mask that is added to scores does. Which "
        "tokens are real needs 1 or True for them, 0 for padding: give annotate(mask=...)."
    )


def refuse_padding_mask(named: Mapping[str, Any]) -> None:
    """Refuse a forward call that marks padding in a way that is not read.

    `src_key_padding_mask` of torch is True where `attention_mask` is 0, and others differ again.

    Raises:
        CaptureError: an argument that is named so is given.

    Example:
        >>> refuse_padding_mask({"src_key_padding_mask": None})
    """
    given = [
        name for name, value in named.items() if value is not None and _PADDING_MASK.search(name)
    ]
    if given:
        raise CaptureError(
            f"The model was called with {given[0]}, so there is padding, which must not be stored "
            "as tokens. Say which tokens are real: annotate(mask=...), [batch, length], before "
            f"the call (~{given[0]} if True means padding there)."
        )
