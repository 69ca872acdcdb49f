"""What a forward pass was called with: token ids, mask, batch and length, however they came."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lazycache.capture.masks import real_tokens, refuse_padding_mask
from lazycache.errors import CaptureError

IDS_NDIM = 2
"""Token ids and masks are [batch, length]."""

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
    """bool[batch, length] on its device, True for real tokens; None if there are no sequences."""
    decodes: bool = False
    """Whether a decoder was given inputs of its own beside these."""


def read_inputs(
    signature: inspect.Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    mask: torch.Tensor | None,
) -> ForwardInputs:
    """Read the arguments of a forward call: positional, by keyword, or one mapping of them.

    Token ids are `input_ids`, or the first two-dimensional integer tensor that is by its name no
    mask, label, type or position; `inputs_embeds` stand in for them. `mask` (given by the user)
    goes before `attention_mask`; without either all is kept. Where there are no ids, either mask
    says that there are sequences: `attention_mask` [batch, length] only beside features [batch,
    length, ...], since of audio it masks samples, and values have another axis.

    Raises:
        CaptureError: no tensor at all, an empty batch, a mask of another shape or of other numbers
            than 0 and 1, an `attention_mask` that does not go with the input, a padding mask under
            another name, or a forward that continues a key-value cache.

    Cost: copies the token ids on their device; the model may write into its own.

    Example:
        >>> def forward(ids, attention_mask=None): ...
        >>> ids = torch.ones(2, 3).long()
        >>> inputs = read_inputs(inspect.signature(forward), [ids], {}, mask=None)
        >>> inputs.batch, inputs.length, int(inputs.mask.sum())
        (2, 3, 6)
    """
    named = _by_name(signature, args, kwargs)
    _refuse_continuation(named)
    if mask is None:
        refuse_padding_mask(named)
    ids = _token_ids(named)
    decodes = any(name.startswith("decoder_input") and named[name] is not None for name in named)
    shape = _sequence_shape(ids, named, mask)
    if shape is None:
        return ForwardInputs(_batch(named), None, None, None, decodes)
    batch, length = shape
    if not batch or not length:
        raise CaptureError(f"An empty batch was given to the model: {batch} x {length} tokens.")
    given = named.get("attention_mask") if mask is None else mask
    kept = None if ids is None else ids.detach().clone()
    return ForwardInputs(batch, length, kept, _mask(given, shape, like=ids), decodes)


def _by_name(
    signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments by name; a mapping given as the first one is unpacked."""
    try:
        bound = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:  # the model itself will say better what is wrong with the call
        return dict(kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}[{i}]": item for i, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    first = args[0] if args else None
    return {**named, **first} if isinstance(first, Mapping) else named


def _refuse_continuation(named: Mapping[str, Any]) -> None:
    cache: Any = named.get("past_key_values")
    # a tuple is the form of older models: it is only made once something was seen
    length = getattr(cache, "get_seq_length", None)
    if (length is not None and length()) or (isinstance(cache, tuple) and cache):
        raise CaptureError(
            "This forward continues a key-value cache (past_key_values), as generate() does: its "
            "tokens would be stored as new examples. Capture whole sequences instead: run the "
            "model once over prompt and answer, without the cache."
        )


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
    ids: torch.Tensor | None, named: Mapping[str, Any], mask: torch.Tensor | None
) -> tuple[int, int] | None:
    """Return [batch, length], or None where nothing says that there are sequences."""
    embeds = named.get("inputs_embeds")
    for source in (ids, embeds, mask):
        if isinstance(source, torch.Tensor) and source.ndim >= IDS_NDIM:
            return source.shape[0], source.shape[1]
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


def _mask(given: object, shape: tuple[int, int], *, like: torch.Tensor | None) -> torch.Tensor:
    if given is None:
        return torch.ones(shape, dtype=torch.bool, device=None if like is None else like.device)
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != shape:
        found = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
        raise CaptureError(
            f"The attention mask is {found}; which tokens are padding needs [batch, length] = "
            f"{list(shape)}. Give it with annotate(mask=...)."
        )
    return real_tokens(given if like is None else given.to(like.device), name="attention_mask")
