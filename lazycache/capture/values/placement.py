"""Which table the values of a site belong to, judged by their shape. Pure."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from lazycache.capture.inputs.forward_inputs import ForwardInputs
from lazycache.capture.sites.names import HookPoint, parse_site
from lazycache.errors import CaptureError
from lazycache.types import EXAMPLES, TOKENS

_LENGTH_FIRST = (
    "values of this module are [length, batch, ...], and rows are read from [batch, length, ...]. "
    "Make it with batch_first=True, or capture where the batch comes first."
)


def table_of(
    name: str,
    values: torch.Tensor,
    inputs: ForwardInputs,
    *,
    before: str | None,
    widths: Collection[int],
    table: str | None = None,
) -> str:
    """Say whether values are one row per token or one per example.

    `[batch, length, ...]` and `[batch * length, ...]` (a mixture of experts flattens) are tokens;
    anything else that has `batch` rows is examples. A site stays in the table (`before`) in which
    its first batch put it, or its name does (`table`). Two shapes read both ways: `[batch, length]`
    of floats may also be a vector of `length` units, and with one token per example rows may be
    either. The first is a vector if `length` is one of `widths`, the numbers of units that are
    known of the module or model (`unit_widths`), and else refused unless an earlier batch settled
    it; the second is taken as examples.

    Raises:
        CaptureError: the shape fits neither table, or not the one that it must be in.

    Example:
        >>> inputs = ForwardInputs(batch=2, length=3, input_ids=None, mask=None)
        >>> table_of("0:out", torch.zeros(2, 3, 8), inputs, before=None, widths=())
        'tokens'
        >>> table_of("pooler:out", torch.zeros(2, 8), inputs, before=None, widths=())
        'examples'
    """
    if values.is_nested:
        raise CaptureError(
            f"{name} gave a nested tensor, which has no [batch, length]. torch's fast path makes "
            "them of padded batches: nn.TransformerEncoder(..., enable_nested_tensor=False)."
        )
    shape = tuple(values.shape)
    readings = readings_of(shape, inputs)
    # a canonical site has a row per token by definition, whatever else its shape would allow
    must = table or (TOKENS if parse_site(name) is not None else before)
    if must is not None:
        if must in readings:
            return must
        raise _unfit(name, shape, inputs, must)
    if not readings:
        raise _unfit(name, shape, inputs, None)
    if len(readings) == 1 or inputs.length is None:
        return readings[0]
    return _settle(name, values, inputs, widths)


def unit_widths(model: nn.Module, point: HookPoint) -> frozenset[int]:
    """Return how many units a vector at a point may have, as far as module and model say.

    Of the module its `out_features` (`in_features` where its input is captured), of the model
    `config.hidden_size` and `config.num_labels`.

    Example:
        >>> unit_widths(nn.Sequential(nn.Linear(4, 3)), HookPoint("0", "out"))
        frozenset({3})
    """
    module = model.get_submodule(point.path)
    config = getattr(model, "config", None)
    known = (
        getattr(module, f"{point.side.removeprefix('grad_')}_features", None),
        getattr(config, "hidden_size", None),
        getattr(config, "num_labels", None),
    )
    return frozenset(width for width in known if isinstance(width, int))


def is_length_first(model: nn.Module, point: HookPoint) -> bool:
    """Say whether values at a point are [length, batch, ...]: torch's own layers know.

    Those are recurrent layers, attention and transformers without `batch_first=True`, and all that
    is inside them.

    Example:
        >>> is_length_first(nn.Sequential(nn.GRU(2, 3)), HookPoint("0", "out"))
        True
    """
    parts = point.path.split(".") if point.path else []
    paths = [".".join(parts[:n]) for n in range(len(parts) + 1)]
    return any(_has_length_first(model.get_submodule(path)) for path in paths)


def _has_length_first(module: nn.Module) -> bool:
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        module = next(iter(module.layers), module)
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        module = module.self_attn
    known = isinstance(module, nn.RNNBase | nn.MultiheadAttention | nn.Transformer)
    return known and not module.batch_first


def check_batch_axis(name: str, inputs: ForwardInputs) -> None:
    """Refuse values [length, batch, ...] where they would pass for [batch, length, ...].

    Elsewhere their shape fits no table, which is told too.

    Raises:
        CaptureError: the model takes no token ids, or as many tokens as examples.
    """
    if inputs.length in (None, inputs.batch):
        raise CaptureError(f"{name}: {_LENGTH_FIRST}")


def readings_of(shape: tuple[int, ...], inputs: ForwardInputs) -> list[str]:
    """Return the tables that values of a shape could have rows of.

    Example:
        >>> readings_of((2, 3), ForwardInputs(batch=2, length=3, input_ids=None, mask=None))
        ['tokens', 'examples']
    """
    batch, length = inputs.batch, inputs.length
    if not shape:
        return []
    if length is not None and len(shape) > 2 and shape[:2] == (batch, length):  # noqa: PLR2004  # [batch, length, units]
        # examples too, in a vision model's sense, but then there would be no sequences
        return [TOKENS]
    as_tokens = length is not None and (shape[:2] == (batch, length) or shape[0] == batch * length)
    as_examples = shape[0] == batch
    return [TOKENS] * as_tokens + [EXAMPLES] * as_examples


def _settle(name: str, values: torch.Tensor, inputs: ForwardInputs, widths: Collection[int]) -> str:
    if not values.is_floating_point():
        return TOKENS  # ids and masks: nobody makes a vector of integers per example
    if inputs.length == 1 or inputs.length in widths:
        return EXAMPLES
    raise CaptureError(
        f"{name} gave {list(values.shape)} for a batch of {inputs.batch} x {inputs.length} tokens: "
        f"that is one number per token, or {inputs.length} units per example. Make it "
        f"[{inputs.batch}, {inputs.length}, 1] in a module of its own (nn.Unflatten, .unsqueeze), "
        "or capture a module around or beside it, such as its parent's ':out'."
    )


def _unfit(
    name: str, shape: tuple[int, ...], inputs: ForwardInputs, table: str | None
) -> CaptureError:
    batch = f"{inputs.batch} examples"
    if inputs.length is not None:
        batch += f" x {inputs.length} tokens"
    needed = "neither a row per token nor a row per example"
    if table is not None:
        needed = f"not a row per {table.removesuffix('s')}, which this site has"
    hint = ""
    if shape[:2] == (inputs.length, inputs.batch):
        hint = f" If {_LENGTH_FIRST}"
    return CaptureError(
        f"{name} gave {list(shape)} for a batch of {batch}: that is {needed}.{hint}"
    )
