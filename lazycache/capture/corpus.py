"""A corpus (texts, token lists, dicts, a dataset) becomes items: token ids, an id, columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from lazycache.capture.columns import Scalar, as_ids, as_scalar, check_name
from lazycache.codec.checksum import crc32
from lazycache.errors import CaptureError

T = TypeVar("T")

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TOKENIZE_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One sequence of a corpus, ready for the model."""

    example: int
    """Its id: the key `example`, else its index in the corpus."""
    input_ids: np.ndarray
    """int64[length], at least one, no padding."""
    columns: Mapping[str, Scalar]
    """Its user columns, `text` among them if it was a text."""

    @property
    def checksum(self) -> int:
        """CRC-32 of the token ids: stored with the example, so that a resume sees a change."""
        return crc32(self.input_ids.astype("<i8").tobytes())


@dataclass(frozen=True, slots=True)
class _Raw:
    """An item before its text is tokenised."""

    index: int
    example: int
    text: str | None
    ids: np.ndarray | None
    columns: Mapping[str, Scalar]


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
    with `input_ids` (and `attention_mask`, whose zeros are dropped) or `text`, perhaps `example`
    (an int of its own), and user columns. A `datasets.Dataset` is an iterable of such mappings.

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
    raws = (_read(n - first, n, entry, keep) for n, entry in numbered)
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


def _encode(raws: Iterator[_Raw], tokenizer: Any, max_length: int | None) -> Iterator[Item]:
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


def _read(index: int, counted: int, entry: Any, keep: Collection[str] | None) -> _Raw:
    if isinstance(entry, str):
        return _Raw(index, counted, entry, None, {"text": entry})
    if not isinstance(entry, Mapping):
        return _Raw(index, counted, None, _as_token_ids(index, entry), {})
    example = as_ids([entry["example"]])[0] if "example" in entry else counted
    kept = _user_columns(index, entry, keep)
    if "input_ids" in entry:
        return _Raw(index, example, None, _real_ids(index, entry), kept)
    if not isinstance(entry.get("text"), str):
        raise CaptureError(
            f"Item {index} has neither 'input_ids' nor a 'text'; its keys are "
            f"{', '.join(map(str, entry))}. Rename the column that holds the text."
        )
    return _Raw(index, example, entry["text"], None, kept)


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


def _real_ids(index: int, entry: Mapping[str, Any]) -> np.ndarray:
    """Token ids of a mapping without its padding."""
    ids = _as_token_ids(index, entry["input_ids"])
    types = entry.get("token_type_ids")
    if types is not None and np.any(np.asarray(types)):
        raise CaptureError(
            f"Item {index} has token_type_ids other than 0, which extract does not pass on. Run "
            "the model yourself inside lc.capture(...)."
        )
    mask = entry.get("attention_mask")
    if mask is None:
        return ids
    real = np.asarray(mask)
    if real.shape != ids.shape:
        raise CaptureError(
            f"Item {index}: attention_mask has shape {real.shape}, input_ids {ids.shape}."
        )
    kept: np.ndarray = ids[real != 0]
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


def _finish(raws: list[_Raw], tokenizer: Any, max_length: int | None) -> Iterator[Item]:
    texts = [raw.text for raw in raws if raw.text is not None]
    tokenized = iter(_tokenize(texts, tokenizer, max_length))
    for raw in raws:
        ids = next(tokenized) if raw.ids is None else raw.ids[:max_length]
        if not len(ids):
            shown = "" if raw.text is None else f" (its text is {raw.text!r:.40})"
            raise CaptureError(
                f"Item {raw.index} of the corpus has no tokens{shown}. Leave such items out."
            )
        yield Item(raw.example, np.asarray(ids, dtype=np.int64), raw.columns)


def _tokenize(texts: list[str], tokenizer: Any, max_length: int | None) -> list[list[int]]:
    if not texts:
        return []
    if not callable(tokenizer):
        raise CaptureError("The corpus holds texts; give extract a tokenizer, or token ids.")
    options = {} if max_length is None else {"truncation": True, "max_length": max_length}
    ids: list[list[int]] = tokenizer(texts, padding=False, **options)["input_ids"]
    return ids
