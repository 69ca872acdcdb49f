"""Items of a corpus become padded batches of like length, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from lazycache.capture.corpus.corpus import blocks
from lazycache.capture.corpus.items import Item
from lazycache.capture.corpus.work import Work
from lazycache.capture.inputs.columns import Scalar
from lazycache.errors import CaptureError

CHECKSUM = "tokens_crc32"
"""Column of `examples` with the CRC-32 of what the model read of an example: its token ids (int64,
little-endian), and what else there was of pixels or ids of a decoder."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a batch may be."""

    examples: int
    """Examples in a batch at most."""
    tokens: int | None
    """Examples times the longest of them at most; one longer example goes alone. None: any."""
    window: int
    """Items of the corpus among which those of like length are gathered."""

    def __post_init__(self) -> None:
        named = (("batch_size", self.examples), ("window", self.window))
        for name, value in (*named, ("batch_tokens", self.tokens)):
            if name == "batch_tokens" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise CaptureError(f"{name}={value!r}: a whole number, at least 1.")

    def described(self) -> dict[str, int | None]:
        """Return it as the provenance of a run says it."""
        return {
            "batch_size": self.examples,
            "batch_tokens": self.tokens,
            "window": self.window,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Items of like length, padded on the right."""

    examples: list[int]
    """Their ids."""
    input_ids: torch.Tensor | None
    """int64[batch, length]; padding is 0 and masked. None if the model reads no tokens."""
    attention_mask: torch.Tensor | None
    """int64[batch, length]: 1 for real tokens; None as `input_ids`."""
    columns: Mapping[str, list[Scalar]]
    """One value per item; None where an item lacks a column that another one has. `CHECKSUM` is
    one of them."""
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What else the model is called with, by its name: `pixel_values`, `decoder_input_ids`."""

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted; of images, how many there are."""
        return len(self.examples) if self.attention_mask is None else int(self.attention_mask.sum())

    @property
    def work(self) -> Work:
        """What it asks of the model, padding not counted."""
        given = (self.attention_mask, self.features.get("decoder_attention_mask"))
        masks = [mask for mask in given if mask is not None]
        if not masks:
            return Work.of([1] * len(self.examples))
        return Work.of(torch.stack([mask.sum(1) for mask in masks]).amax(0).tolist())


def plan_batches(
    items: Iterable[Item], limits: Limits, *, in_order: bool = False
) -> Iterator[Batch]:
    """Group items into padded batches of like length.

    Of each window of items in corpus order the longest come first: little padding, and a batch that
    does not fit into memory fails at once. Holds one window of token ids; the order depends on the
    corpus and the limits alone.

    Args:
        items: The corpus.
        limits: How large a batch may be.
        in_order: Leave the items in their order, as they were sorted before; windows end where
            they ended.

    Example:
        >>> from lazycache.capture.corpus.corpus import encode_items
        >>> items = encode_items([[1], [2, 3], [4]], tokenizer=None, max_length=None, keep=None)
        >>> limits = Limits(examples=2, tokens=None, window=3)
        >>> [batch.input_ids.tolist() for batch in plan_batches(items, limits)]
        [[[2, 3], [1, 0]], [[4]]]
    """
    items = iter(items)
    first = next(items, None)
    if first is None:
        return
    # images have no length to be sorted by, and a window of them would fill the memory
    window = limits.window if first.pixels is None else limits.examples
    for block in blocks(chain([first], items), size=window):
        if not in_order:
            # a stable sort: equal lengths keep the order of the corpus
            block.sort(key=lambda item: -item.length)
        for group in _groups(block, limits):
            yield pad(group)


def _groups(items: Iterable[Item], limits: Limits) -> Iterator[list[Item]]:
    """Cut items into neighbours that fit the limits."""
    group: list[Item] = []
    longest = 0
    for item in items:
        longest = max(longest, item.length)
        over = limits.tokens is not None and longest * (len(group) + 1) > limits.tokens
        if group and (over or len(group) == limits.examples):
            yield group
            group, longest = [], item.length
        group.append(item)
    if group:
        yield group


def pad(items: list[Item]) -> Batch:
    """Make one batch of items.

    Raises:
        CaptureError: items that cannot be in one batch: images of different sizes.
    """
    names = dict.fromkeys(name for item in items for name in item.columns)
    columns: dict[str, list[Scalar]] = {
        name: [item.columns.get(name) for item in items] for name in names
    }
    columns[CHECKSUM] = [item.checksum for item in items]
    ids, mask = _padded([item.input_ids for item in items], "input_ids")
    return Batch([item.example for item in items], ids, mask, columns, _features(items))


def _padded(
    rows: list[np.ndarray | None], name: str
) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """Return ids of several items and which of them are real."""
    known = [row for row in rows if row is not None]
    if not known:
        return None, None
    if len(known) < len(rows):
        raise CaptureError(f"Some items of the corpus have {name}, others have none: give all.")
    length = max(len(row) for row in known)
    ids = torch.zeros(len(known), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(known):
        ids[at, : len(row)] = torch.from_numpy(row)
        mask[at, : len(row)] = 1
    return ids, mask


def _features(items: list[Item]) -> dict[str, torch.Tensor]:
    """What the model is called with beside `input_ids`."""
    found: dict[str, torch.Tensor] = {}
    ids, mask = _padded([item.decoder_ids for item in items], "decoder_input_ids")
    if ids is not None and mask is not None:
        found |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    pixels = [item.pixels for item in items if item.pixels is not None]
    if pixels:
        shapes = sorted({tuple(image.shape) for image in pixels})
        if len(shapes) > 1 or len(pixels) < len(items):
            raise CaptureError(
                f"Images of one batch need one size; there are {', '.join(map(str, shapes))}. "
                "Resize them, as an image processor does, or use batch_size=1."
            )
        found["pixel_values"] = torch.stack(pixels)
    return found


def pending(batches: Iterable[Batch], *, done: Mapping[int, int | None]) -> Iterator[Batch]:
    """Leave out the examples that are done, after a look whether they are the same.

    The batches are planned over the whole corpus, so what is left runs in the company that it
    would have had without the interruption, and gives the same values.

    Args:
        batches: Of the whole corpus.
        done: Id to stored `CHECKSUM` of the examples that are committed; None where none is.

    Raises:
        CaptureError: an example that is done had other tokens.
    """
    for batch in batches:
        checksums = batch.columns[CHECKSUM]
        for example, checksum in zip(batch.examples, checksums, strict=True):
            if done.get(example, checksum) not in (checksum, None):
                raise CaptureError(
                    f"Example {example} of this corpus is not the one that was captured under "
                    "this id: its tokens differ. Extract another corpus to another url or run, "
                    "or replace what is there with overwrite=True."
                )
        yield from without(batch, done)


def without(batch: Batch, done: Container[int]) -> Iterator[Batch]:
    """Give what is left of a batch: itself, a smaller one, or nothing.

    Example:
        >>> ids = torch.tensor([[1], [2]])
        >>> batch = Batch([7, 8], ids, torch.ones_like(ids), {})
        >>> [left.examples for left in without(batch, {7: None})]
        [[8]]
    """
    left = [i for i, example in enumerate(batch.examples) if example not in done]
    if len(left) == len(batch.examples):
        yield batch
    elif left:
        yield _some(batch, left)


def _some(batch: Batch, chosen: list[int]) -> Batch:
    """Return some items of a batch, padded as they were."""
    return Batch(
        examples=[batch.examples[i] for i in chosen],
        input_ids=None if batch.input_ids is None else batch.input_ids[chosen],
        attention_mask=None if batch.attention_mask is None else batch.attention_mask[chosen],
        columns={name: [values[i] for i in chosen] for name, values in batch.columns.items()},
        features={name: values[chosen] for name, values in batch.features.items()},
    )
