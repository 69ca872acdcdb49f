"""Drive a model over a corpus: batches of like length, one forward pass for each."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from lazycache.capture.architectures import locate
from lazycache.capture.columns import Scalar
from lazycache.capture.corpus import Item, blocks
from lazycache.capture.sites import HookPoint
from lazycache.errors import CaptureError

_LOGITS_TO_KEEP = ("logits_to_keep", "num_logits_to_keep")  # the second before transformers 4.50


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Items of like length, padded on the right."""

    examples: list[int]
    """Their ids."""
    input_ids: torch.Tensor
    """int64[batch, length]; padding is 0 and masked."""
    attention_mask: torch.Tensor
    """int64[batch, length]: 1 for real tokens."""
    columns: Mapping[str, list[Scalar]]
    """One value per item; None where an item lacks a column that another one has. `CHECKSUM` is
    one of them."""

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.attention_mask.sum())


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    examples: int
    """Examples done."""
    tokens: int
    """Real tokens done."""
    batches: int
    """Forward passes done."""
    seconds: float
    """Since the run began."""


class Annotate(Protocol):
    """`Recorder.annotate`: says what the examples of the next forward pass are."""

    def __call__(
        self, *, example: Any = None, mask: Any = None, columns: Mapping[str, Any] | None = None
    ) -> None:
        """Take ids, mask and columns."""
        ...


CHECKSUM = "tokens_crc32"
"""Column of `examples` with the CRC-32 of an example's token ids (int64, little-endian)."""


def plan_batches(items: Iterable[Item], *, batch_size: int, window: int) -> Iterator[Batch]:
    """Group items into padded batches of like length.

    Of each `window` items in corpus order the longest come first: little padding, and a batch that
    does not fit into memory fails at once. Holds one window of token ids; the order depends on the
    corpus alone.

    Raises:
        CaptureError: sizes below 1.

    Example:
        >>> from lazycache.capture.corpus import encode_items
        >>> items = encode_items([[1], [2, 3], [4]], tokenizer=None, max_length=None, keep=None)
        >>> [batch.input_ids.tolist() for batch in plan_batches(items, batch_size=2, window=3)]
        [[[2, 3], [1, 0]], [[4]]]
    """
    for name, value in (("batch_size", batch_size), ("window", window)):
        if not isinstance(value, int) or value < 1:
            raise CaptureError(f"{name}={value!r}: a whole number, at least 1.")
    return _batches(items, batch_size, window)


def _batches(items: Iterable[Item], batch_size: int, window: int) -> Iterator[Batch]:
    for block in blocks(items, size=window):
        # a stable sort: equal lengths keep the order of the corpus
        block.sort(key=lambda item: -len(item.input_ids))
        for start in range(0, len(block), batch_size):
            yield _pad(block[start : start + batch_size])


def _pad(items: list[Item]) -> Batch:
    length = max(len(item.input_ids) for item in items)
    ids = torch.zeros(len(items), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : len(item.input_ids)] = torch.from_numpy(item.input_ids)
        mask[row, : len(item.input_ids)] = 1
    names = dict.fromkeys(name for item in items for name in item.columns)
    columns: dict[str, list[Scalar]] = {
        name: [item.columns.get(name) for item in items] for name in names
    }
    columns[CHECKSUM] = [item.checksum for item in items]
    return Batch([item.example for item in items], ids, mask, columns)


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
        left = [i for i, example in enumerate(batch.examples) if example not in done]
        if left:
            yield batch if len(left) == len(batch.examples) else _some(batch, left)


def _some(batch: Batch, chosen: list[int]) -> Batch:
    columns = {name: [values[i] for i in chosen] for name, values in batch.columns.items()}
    examples = [batch.examples[i] for i in chosen]
    return Batch(examples, batch.input_ids[chosen], batch.attention_mask[chosen], columns)


def run_batches(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    points: Iterable[HookPoint],
    annotate: Annotate,
    progress: Callable[[Progress], None],
) -> Progress:
    """Run the model over all batches, in evaluation mode and without gradients.

    `annotate` is called before each forward pass, `progress` after it. The model's training flags
    are put back afterwards. Logits are not computed for every token if no point needs them and the
    model can leave them out (`logits_to_keep`).

    Returns:
        What was done in all.

    Raises:
        CaptureError: padding was needed, but the model takes no attention mask.

    Example:
        >>> seen = []
        >>> done = run_batches(nn.Embedding(9, 2), [Batch([7], torch.ones(1, 3).long(),
        ...                    torch.ones(1, 3).long(), {})], points=[],
        ...                    annotate=lambda **kwargs: seen.append(kwargs["example"]),
        ...                    progress=lambda _: None)
        >>> seen, done.tokens
        ([[7]], 3)
    """
    started = time.monotonic()
    done = Progress(0, 0, 0, 0.0)
    call = _caller(model, list(points))
    with _evaluating(model), torch.no_grad():
        for batch in batches:
            annotate(example=batch.examples, mask=batch.attention_mask, columns=batch.columns)
            call(batch)
            done = Progress(
                examples=done.examples + len(batch.examples),
                tokens=done.tokens + batch.tokens,
                batches=done.batches + 1,
                seconds=time.monotonic() - started,
            )
            progress(done)
    return done


def _caller(model: nn.Module, points: list[HookPoint]) -> Callable[[Batch], None]:
    """Return how to call this model with a batch, judged once by its signature."""
    takes = inspect.signature(model.forward).parameters
    device = _input_device(model)
    extra: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if not _needs_head(model, points):
        extra |= {name: 1 for name in _LOGITS_TO_KEEP if name in takes}

    def call(batch: Batch) -> None:
        ids = batch.input_ids.to(device)
        if "input_ids" not in takes:
            _refuse_padding(model, batch)
            model(ids)
        elif "attention_mask" not in takes:
            _refuse_padding(model, batch)
            model(input_ids=ids, **extra)
        else:
            model(input_ids=ids, attention_mask=batch.attention_mask.to(device), **extra)

    return call


def _refuse_padding(model: nn.Module, batch: Batch) -> None:
    if batch.tokens != batch.input_ids.numel():
        raise CaptureError(
            f"{type(model).__name__} takes no attention_mask, so padding would be read as text. "
            "Use batch_size=1, or sequences of one length."
        )


def _input_device(model: nn.Module) -> torch.device:
    """Where the model wants its token ids: with its first weights."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _needs_head(model: nn.Module, points: list[HookPoint]) -> bool:
    """Say whether a point is outside the transformer proper: there it could see the logits."""
    located = locate(model)
    return located is None or any(not point.path.startswith(located.base) for point in points)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off; put every module's own flag back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
