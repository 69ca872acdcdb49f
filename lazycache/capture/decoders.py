"""Encoder-decoder models: the rows are the encoder's tokens, so only its values can be stored."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lazycache.capture.forward_inputs import ForwardInputs
from lazycache.capture.sites import HookPoint
from lazycache.errors import CaptureError


def refuse_decoder(
    model: nn.Module, points: Mapping[str, HookPoint], inputs: ForwardInputs
) -> None:
    """Refuse sites outside the encoder, if this forward pass runs a decoder too.

    Its values have other positions, and where both are of one length nothing would show that they
    were filed under the encoder's tokens. A decoder runs if `config.is_encoder_decoder` says so, or
    if the call gives it inputs.

    Raises:
        CaptureError: names the sites.

    Example:
        >>> inputs = ForwardInputs(1, 2, None, None, decodes=True)
        >>> refuse_decoder(nn.ReLU(), {"x": HookPoint("encoder.block.0", "out")}, inputs)
    """
    config = getattr(model, "config", None)
    if not inputs.decodes and not getattr(config, "is_encoder_decoder", False):
        return
    outside = [name for name, point in points.items() if not _in_encoder(point.path)]
    if outside:
        raise CaptureError(
            f"{type(model).__name__} has an encoder and a decoder, and {', '.join(outside[:5])} "
            f"({len(outside)} in all) is not inside the encoder: rows are its tokens, and values "
            "of a decoder have others. Capture modules of the encoder only, such as "
            "'*encoder.*', or the decoder by itself."
        )


def _in_encoder(path: str) -> bool:
    parts = path.split(".")
    return any("encoder" in part for part in parts) and not any("decoder" in part for part in parts)
