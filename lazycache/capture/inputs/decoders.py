"""Encoder-decoder models: which stack a module belongs to, and where the decoder is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lazycache.capture.sites.modules import callable_paths
from lazycache.capture.sites.names import HookPoint
from lazycache.errors import CaptureError
from lazycache.types import DECODER_TOKENS, EXAMPLES, TOKENS


def decoder_of(model: nn.Module, points: Iterable[HookPoint]) -> str | None:
    """Return the path of the decoder that an encoder-decoder model has, if a site needs it.

    None: the model has no decoder beside an encoder, or all sites are inside the encoder. A model
    has both if `config.is_encoder_decoder` says so or its forward takes inputs of a decoder; the
    decoder is the outermost module that is called so.

    Raises:
        CaptureError: there are several such modules, or none.

    Example:
        >>> decoder_of(nn.Sequential(nn.ReLU()), [HookPoint("0", "out")]) is None
        True
    """
    outside = [point for point in points if not is_of_encoder(point)]
    if not outside or not _has_both(model):
        return None
    found = [path for path in callable_paths(model) if path.split(".")[-1] == "decoder"]
    outermost = [
        path
        for path in found
        if not in_encoder(path) and not any(path.startswith(f"{other}.") for other in found)
    ]
    if len(outermost) == 1:
        return outermost[0]
    which = "none of its modules is" if not outermost else f"{', '.join(outermost)} are"
    raise CaptureError(
        f"{type(model).__name__} has an encoder and a decoder, but {which} called 'decoder': there "
        f"is no telling whose rows {outside[0]} has. Capture modules of the encoder only, such as "
        "'*encoder.*', or the decoder by itself."
    )


def _has_both(model: nn.Module) -> bool:
    inner: object = model
    while inner is not None:  # wrappers: DistributedDataParallel keeps its model there
        if getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
            return True
        forward = getattr(inner, "forward", None)
        if callable(forward) and _takes_decoder_inputs(forward):
            return True
        inner = getattr(inner, "module", None)
    return False


def _takes_decoder_inputs(forward: Any) -> bool:
    try:
        names = inspect.signature(forward).parameters
    except (TypeError, ValueError):  # modules written in C++ have none
        return False
    return any(name.startswith("decoder_input") for name in names)


def is_of_encoder(point: HookPoint) -> bool:
    """Say whether a site has the rows of the encoder wherever it is met.

    Example:
        >>> is_of_encoder(HookPoint("encoder.block.0", "out")), is_of_encoder(HookPoint("", "out"))
        (True, False)
    """
    if point.table is not None:
        return point.table in (TOKENS, EXAMPLES)
    return in_encoder(point.path)


def in_encoder(path: str) -> bool:
    """Say whether a module is inside an encoder, and not in one that a decoder is made of.

    Example:
        >>> in_encoder("model.text_encoder.0"), in_encoder("decoder.bert.encoder.0")
        (True, False)
    """
    parts = path.split(".")
    return any("encoder" in part for part in parts) and not any("decoder" in part for part in parts)


def is_of_decoder(point: HookPoint) -> bool:
    """Say whether a site is met only when the decoder runs.

    Example:
        >>> is_of_decoder(HookPoint("decoder.block.0", "out"))
        True
    """
    if point.table is not None:
        return point.table == DECODER_TOKENS
    return any("decoder" in part for part in point.path.split("."))


def labels_mask(named: Mapping[str, Any]) -> torch.Tensor | None:
    """Return which positions of the decoder have a label, where it is given labels alone.

    A model makes the decoder's inputs from the labels, and its padding from -100. None: the call
    gives the decoder inputs or a mask of its own, or no labels [batch, length].

    Example:
        >>> labels_mask({"labels": torch.tensor([[5, 6, -100]])})
        tensor([[ True,  True, False]])
    """
    own = ("decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask")
    labels = named.get("labels")
    given = any(named.get(name) is not None for name in own)
    if given or not isinstance(labels, torch.Tensor) or labels.ndim != 2:  # noqa: PLR2004  # [batch, length]
        return None
    return labels != -100  # noqa: PLR2004  # what torch's cross entropy leaves out
