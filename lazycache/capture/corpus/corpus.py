"""A corpus (texts, token lists, dicts, a dataset) becomes items: token ids, an id, columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lazycache.capture.corpus.items import Item, RawItem, read_item
from lazycache.errors import CaptureError

T = TypeVar("T")

_TOKENIZE_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """What the model is run on, and how it is read."""

    data: Iterable[Any]
    """The items."""
    tokenizer: Any
    """For texts."""
    max_length: int | None = None
    """Longer examples lose their end."""
    keep: Collection[str] | None = None
    """Names of the columns to keep; None keeps all."""

    def items(self, *, first: int) -> Iterator[Item]:
        """Read it; `first` is the id of the first item that names none."""
        return encode_items(
            self.data,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            keep=self.keep,
            first=first,
        )


def encode_items(
    data: Iterable[Any],
    *,
    tokenizer: Any,
    max_length: int | None,
    keep: Collection[str] | None,
    first: int = 0,
) -> Iterator[Item]:
    """Read a corpus one block at a time and give its sequences in order.

    Each item of `data` is a text, a sequence of token ids (list, array or tensor), or a mapping
    with `input_ids` (and `attention_mask`, whose zeros are dropped) or `text`, for an
    encoder-decoder model `decoder_input_ids` too, or for an image model `pixel_values` alone;
    perhaps `example` (an int of its own), and user columns. A `datasets.Dataset` is an iterable of
    such mappings.

    Args:
        data: The corpus. Read once, nothing is held beyond one block.
        tokenizer: Needed for texts; called with a list of texts as those of transformers are.
        max_length: Longer sequences lose their end; None cuts nothing.
        keep: Names of the user columns to keep; None keeps all and refuses what is no scalar.
        first: Id of the first item; items that name no `example` are counted from it.

    Raises:
        CaptureError: when its turn comes: an empty corpus, a sequence without tokens, an item of
            another kind.

    Example:
        >>> items = encode_items([[5, 6, 7], {"input_ids": [8], "label": "x"}], tokenizer=None,
        ...                      max_length=2, keep=None)
        >>> [(item.example, item.input_ids.tolist(), item.columns) for item in items]
        [(0, [5, 6], {}), (1, [8], {'label': 'x'})]
    """
    _refuse_whole(data)
    if max_length is not None and (not isinstance(max_length, int) or max_length < 1):
        raise CaptureError(f"max_length={max_length!r}: a whole number of tokens, at least one.")
    if isinstance(keep, str):
        raise CaptureError(f"keep={keep!r}: give a list of names, [{keep!r}].")
    numbered = enumerate(data, first)
    raws = (read_item(n - first, n, entry, keep) for n, entry in numbered)
    return _encode(raws, tokenizer, max_length)


def blocks(entries: Iterable[T], *, size: int) -> Iterator[list[T]]:
    """Yield lists of `size`, the last one shorter; after an error, what came before it first.

    Example:
        >>> list(blocks([1, 2, 3], size=2))
        [[1, 2], [3]]
    """
    block: list[T] = []
    try:
        for entry in entries:
            block.append(entry)
            if len(block) == size:
                yield block
                block = []
    except Exception:
        # what a corpus gave before it failed is whole, and hours of work may have gone into it
        if block:
            yield block
        raise
    if block:
        yield block


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """Return the most tokens that model and tokenizer say they can take; None if neither does.

    Example:
        >>> longest_input(object(), None) is None
        True
    """
    limits = (
        getattr(getattr(model, "config", None), "max_position_embeddings", None),
        getattr(tokenizer, "model_max_length", None),
    )
    # tokenizers that know no limit say 1e30
    known = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < (1 << 31)]
    return min(known, default=None)


def _encode(raws: Iterator[RawItem], tokenizer: Any, max_length: int | None) -> Iterator[Item]:
    empty = True
    for block in blocks(raws, size=_TOKENIZE_AT_ONCE):
        empty = False
        yield from _finish(block, tokenizer, max_length)
    if empty:
        raise CaptureError("The corpus is empty: there is nothing to run the model on.")


def _refuse_whole(data: object) -> None:
    """Refuse single values that iterate into nonsense: letters of a text, names of columns."""
    if isinstance(data, str | bytes):
        raise CaptureError("The corpus is a single text; give a list of texts: [text].")
    if isinstance(data, Mapping) or hasattr(data, "iterrows"):
        raise CaptureError(
            f"The corpus is a {type(data).__name__}; give one item per example: a split of a "
            "DatasetDict, frame.to_dict('records') of a data frame, a list of dicts."
        )
    if not isinstance(data, Iterable):
        raise CaptureError(f"A {type(data).__name__} is no corpus: it cannot be iterated.")


def _finish(raws: list[RawItem], tokenizer: Any, max_length: int | None) -> Iterator[Item]:
    texts = [raw.text for raw in raws if raw.text is not None]
    tokenized = iter(_tokenize(texts, tokenizer, max_length))
    for raw in raws:
        if raw.pixels is not None:
            yield Item(raw.example, None, raw.columns, pixels=raw.pixels)
            continue
        ids = next(tokenized) if raw.ids is None else raw.ids[:max_length]
        decoder = None if raw.decoder_ids is None else raw.decoder_ids[:max_length]
        if not len(ids) or (decoder is not None and not len(decoder)):
            shown = "" if raw.text is None else f" (its text is {raw.text!r:.40})"
            raise CaptureError(
                f"Item {raw.index} of the corpus has no tokens{shown}. Leave such items out."
            )
        yield Item(raw.example, np.asarray(ids, dtype=np.int64), raw.columns, decoder)


def _tokenize(texts: list[str], tokenizer: Any, max_length: int | None) -> list[list[int]]:
    if not texts:
        return []
    if not callable(tokenizer):
        raise CaptureError("The corpus holds texts; give extract a tokenizer, or token ids.")
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    ids: list[list[int]] = tokenizer(texts, padding=False, **options)["input_ids"]
    return ids
