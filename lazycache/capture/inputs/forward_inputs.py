"""What a forward pass was called with: token ids, mask, batch and length, however they came."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lazycache.capture.inputs.masks import real_tokens, refuse_padding_mask
from lazycache.capture.values.tensors import first_tensor
from lazycache.errors import CaptureError

IDS_NDIM = 2
"""Token ids and masks are [batch, length]."""

Patches = Callable[[tuple[int, ...]], int]
"""Shape of the pixels of a batch to the positions that a model has for each image."""

_NO_INPUT = re.compile(r"mask|label|type_ids|position|^(decoder_|past|cache)")
"""Names of arguments that go with the inputs and are none themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class ForwardInputs:
    """The inputs of one forward pass of the whole model, as far as rows depend on them."""

    batch: int
    """How many examples."""
    length: int | None
    """Positions per example, padding included; None if the model takes no sequences."""
    input_ids: torch.Tensor | None
    """int[batch, length], as they were before the model ran; None if the model was given
    embeddings or features, or no sequences."""
    mask: torch.Tensor | None
    """bool[batch, length] on the CPU, True for real tokens; None if there are no sequences."""


def read_inputs(
    named: Mapping[str, Any], *, mask: torch.Tensor | None, patches: Patches | None = None
) -> ForwardInputs:
    """Read the arguments of a forward call, given by name (`arguments.named_arguments`).

    Token ids are `input_ids`, or the first two-dimensional integer tensor that is by its name no
    mask, label, type or position; `inputs_embeds` and `encoder_outputs` stand in for them. Of
    images (`pixel_values`) the family of the model says how many positions they have. `mask` (given
    by the user) goes before `attention_mask`; without either all is kept. Where there are no ids,
    either mask says that there are sequences: `attention_mask` [batch, length] only beside features
    [batch, length, ...], since of audio it masks samples, and values have another axis.

    Raises:
        CaptureError: no tensor at all, an empty batch, a mask of another shape or of other numbers
            than 0 and 1, an `attention_mask` that does not go with the input, or a padding mask
            under another name.

    Cost: copies the token ids on their device; the model may write into its own. Which tokens are
    real must be known on the host: a mask on a device is waited for, until all that runs there has
    ended. One that the user gives on the CPU costs nothing.

    Example:
        >>> inputs = read_inputs({"ids": torch.ones(2, 3).long()}, mask=None)
        >>> inputs.batch, inputs.length, int(inputs.mask.sum())
        (2, 3, 6)
    """
    if mask is None:
        refuse_padding_mask(named)
    ids = _token_ids(named)
    shape = _sequence_shape(ids, named, mask, patches)
    if shape is None:
        return ForwardInputs(_batch(named), None, None, None)
    batch, length = shape
    if not batch or not length:
        raise CaptureError(f"An empty batch was given to the model: {batch} x {length} tokens.")
    given = named.get("attention_mask") if mask is None else mask
    kept = None if ids is None else ids.detach().clone()
    return ForwardInputs(batch, length, kept, _mask(given, shape))


def _token_ids(named: Mapping[str, Any]) -> torch.Tensor | None:
    ids = named.get("input_ids")
    if isinstance(ids, torch.Tensor):
        if ids.ndim != IDS_NDIM:
            raise CaptureError(
                f"input_ids has shape {tuple(ids.shape)}; [batch, length] is needed. "
                "For one sequence: input_ids[None]."
            )
        return ids
    if named.get("inputs_embeds") is not None:
        return None
    return next((value for value in _inputs(named) if _are_ids(value)), None)


def _inputs(named: Mapping[str, Any]) -> list[torch.Tensor]:
    """Tensors that are by their name what the model works on."""
    return [
        value
        for name, value in named.items()
        if isinstance(value, torch.Tensor) and not _NO_INPUT.search(name)
    ]


def _are_ids(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.ndim == IDS_NDIM
        and not value.is_floating_point()
        and not value.is_complex()
        and value.dtype != torch.bool
    )


def _sequence_shape(
    ids: torch.Tensor | None,
    named: Mapping[str, Any],
    mask: torch.Tensor | None,
    patches: Patches | None,
) -> tuple[int, int] | None:
    """Return [batch, length], or None where nothing says that there are sequences."""
    encoded = first_tensor(named.get("encoder_outputs"))
    for source in (ids, named.get("inputs_embeds"), encoded, mask):
        if isinstance(source, torch.Tensor) and source.ndim >= IDS_NDIM:
            return source.shape[0], source.shape[1]
    pixels = named.get("pixel_values")
    if patches is not None and isinstance(pixels, torch.Tensor):
        return pixels.shape[0], patches(tuple(pixels.shape))
    given = named.get("attention_mask")
    return None if given is None else _features_shape(given, named)


def _features_shape(mask: object, named: Mapping[str, Any]) -> tuple[int, int]:
    """Return [batch, length] of features that have the axes of the attention mask."""
    if isinstance(mask, torch.Tensor) and mask.ndim == IDS_NDIM:
        batch, length = mask.shape
        if any(x.ndim > IDS_NDIM and x.shape[:2] == mask.shape for x in _inputs(named)):
            return batch, length
    found = list(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    shapes = ", ".join(str(list(value.shape)) for value in _inputs(named)) or "no tensor"
    raise CaptureError(
        f"attention_mask is {found} and the input {shapes}: features [batch, length, ...] would "
        "say that the mask is one of positions, but here it may count something else, such as "
        "samples. Give annotate(mask=...) with the token axis of the sites, [batch, length], or "
        "call the model without attention_mask, on inputs that need no padding."
    )


def _batch(named: Mapping[str, Any]) -> int:
    tensors = (value for value in named.values() if isinstance(value, torch.Tensor) and value.ndim)
    first = next(tensors, None)
    if first is None:
        raise CaptureError(
            "The model was called without a tensor, so there is no telling how many examples the "
            "batch has."
        )
    if not first.shape[0]:
        raise CaptureError(f"An empty batch was given to the model: shape {tuple(first.shape)}.")
    return first.shape[0]


def _mask(given: object, shape: tuple[int, int]) -> torch.Tensor:
    if given is None:
        return torch.ones(shape, dtype=torch.bool)
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != shape:
        found = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise CaptureError(
            f"The attention mask is {found}; which tokens are padding needs [batch, length] = "
            f"{list(shape)}. Give it with annotate(mask=...)."
        )
    return real_tokens(given.cpu(), name="attention_mask")
