"""One item of a corpus, as users give it, read: token ids, an image or a text, an id, columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lazycache.capture.inputs.columns import Scalar, as_ids, as_scalar, check_name
from lazycache.codec.checksum import crc32
from lazycache.errors import CaptureError

_PIXELS = "pixel_values"
_DECODER = "decoder_input_ids"
_MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    _DECODER,
    "decoder_attention_mask",
    _PIXELS,
)
_IMAGE_NDIM = 3


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One sequence or image of a corpus, ready for the model."""

    example: int
    """Its id: the key `example`, else its index in the corpus."""
    input_ids: np.ndarray | None
    """int64[length], at least one, no padding; None of an image."""
    columns: Mapping[str, Scalar]
    """Its user columns, `text` among them if it was a text."""
    decoder_ids: np.ndarray | None = None
    """int64[length]: what the decoder of an encoder-decoder model reads; None if it has none."""
    pixels: torch.Tensor | None = None
    """The image, [channels, height, width]; None of a sequence."""

    @property
    def length(self) -> int:
        """What it costs in a batch: its tokens, the longer of two sequences; 1 of an image."""
        return max(
            [len(ids) for ids in (self.input_ids, self.decoder_ids) if ids is not None] or [1]
        )

    @property
    def checksum(self) -> int:
        """CRC-32 of what the model reads, stored with the example: a resume sees a change."""
        checksum = 0
        for ids in (self.input_ids, self.decoder_ids):
            if ids is not None:
                checksum = crc32(ids.astype("<i8").tobytes(), checksum)
        if self.pixels is not None:
            checksum = crc32(self.pixels.contiguous().view(torch.uint8).numpy().data, checksum)
        return checksum


@dataclass(frozen=True, slots=True)
class RawItem:
    """An item before its text is tokenised."""

    index: int
    example: int
    text: str | None
    ids: np.ndarray | None
    columns: Mapping[str, Scalar]
    decoder_ids: np.ndarray | None = None
    pixels: torch.Tensor | None = None


def read_item(index: int, counted: int, entry: Any, keep: Collection[str] | None) -> RawItem:
    """Read one item of a corpus.

    Args:
        index: Its place in the corpus, for messages.
        counted: The id that it has if it names none.
        entry: What the corpus gave.
        keep: Names of the user columns to keep; None keeps all.

    Raises:
        CaptureError: it is nothing that a model can be run on; names the item.

    Example:
        >>> read_item(0, 7, {"input_ids": [5, 6], "label": "x"}, None).columns
        {'label': 'x'}
    """
    if isinstance(entry, str):
        return RawItem(index, counted, entry, None, {"text": entry})
    if not isinstance(entry, Mapping):
        return RawItem(index, counted, None, _as_token_ids(index, entry), {})
    example = as_ids([entry["example"]])[0] if "example" in entry else counted
    kept = _user_columns(index, entry, keep)
    if _PIXELS in entry:
        return RawItem(index, example, None, None, kept, pixels=_image(index, entry))
    decoder = None
    if _DECODER in entry:
        decoder = _real_ids(index, entry, ids=_DECODER, mask="decoder_attention_mask")
    if "input_ids" in entry:
        return RawItem(index, example, None, _real_ids(index, entry), kept, decoder)
    if not isinstance(entry.get("text"), str):
        raise CaptureError(
            f"Item {index} has neither 'input_ids', 'pixel_values' nor a 'text'; its keys are "
            f"{', '.join(map(str, entry))}. Rename the column that holds the text, or run the "
            "model in a loop of your own inside lc.capture(...)."
        )
    return RawItem(index, example, entry["text"], None, kept, decoder)


def _user_columns(
    index: int, entry: Mapping[str, Any], keep: Collection[str] | None
) -> dict[str, Scalar]:
    names = [name for name in entry if name not in _MODEL_INPUTS and name != "example"]
    wanted = names if keep is None else [name for name in names if name in keep]
    try:
        for name in wanted:
            check_name(name, sites=())
        return {name: as_scalar(name, entry[name]) for name in wanted}
    except CaptureError as exc:
        raise CaptureError(
            f"Item {index}: {exc} Leave it out with keep=[names of the columns to keep]."
        ) from exc


def _image(index: int, entry: Mapping[str, Any]) -> torch.Tensor:
    """Pixels of one image, as image processors give them: perhaps as a batch of one."""
    others = [name for name in ("text", "input_ids") if name in entry]
    if others:
        raise CaptureError(
            f"Item {index} has {_PIXELS} and {others[0]}. extract runs models of images or of "
            "tokens; run one of both in a loop of your own inside lc.capture(...)."
        )
    try:
        image = torch.as_tensor(entry[_PIXELS]).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as exc:
        raise CaptureError(
            f"Item {index}: {_PIXELS} is a {type(entry[_PIXELS]).__name__}, which is no tensor. "
            "Make it one with the image processor of the model."
        ) from exc
    image = image[0] if image.ndim == _IMAGE_NDIM + 1 and len(image) == 1 else image
    if image.ndim != _IMAGE_NDIM or not image.numel():
        raise CaptureError(
            f"Item {index}: {_PIXELS} has shape {list(image.shape)}; [channels, height, width] is "
            "needed."
        )
    return image.contiguous()


def _real_ids(
    index: int,
    entry: Mapping[str, Any],
    *,
    ids: str = "input_ids",
    mask: str = "attention_mask",
) -> np.ndarray:
    """Token ids of a mapping without its padding."""
    found = _as_token_ids(index, entry[ids])
    types = entry.get("token_type_ids")
    if types is not None and np.any(np.asarray(types)):
        raise CaptureError(
            f"Item {index} has token_type_ids other than 0, which extract does not pass on. Run "
            "the model yourself inside lc.capture(...)."
        )
    if entry.get(mask) is None:
        return found
    real = np.asarray(entry[mask])
    if real.shape != found.shape:
        raise CaptureError(f"Item {index}: {mask} has shape {real.shape}, {ids} {found.shape}.")
    kept: np.ndarray = found[real != 0]
    return kept


def _as_token_ids(index: int, value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
    try:
        ids = np.asarray(value)
    except ValueError as exc:
        raise CaptureError(f"Item {index} is no sequence of token ids: {exc}.") from exc
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise CaptureError(
            f"Item {index} is no sequence of token ids: {type(value).__name__} of shape "
            f"{ids.shape}, {ids.dtype}. An item is a text, a list of ints, or a dict with one."
        )
    plain: np.ndarray = ids.astype(np.int64)
    return plain
