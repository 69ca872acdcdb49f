"""Short numbers that tell models, tokenizers and corpora apart: CRC-32 of what they consist of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import nn

from lazycache.codec.checksum import crc32
from lazycache.errors import CaptureError

_LOOKED_AT = 64  # numbers of each parameter: other weights differ in nearly all of them

_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_READ = ("text", "input_ids", "attention_mask", "decoder_input_ids", "pixel_values", "example")
"""Keys of an item that decide what the model reads, or under which id."""


def weights_fingerprint(model: nn.Module) -> str | None:
    """Tell weights apart: CRC-32 of the names and of some numbers of every parameter.

    None for weights that cannot be looked at: on the meta device, or sparse.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = weights_fingerprint(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> before == weights_fingerprint(layer)
        False
    """
    checksum = 0
    for name, parameter in model.named_parameters():
        if parameter.is_meta or parameter.layout != torch.strided:
            return None
        flat = parameter.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // _LOOKED_AT)].cpu().contiguous()
        checksum = crc32(some.view(torch.uint8).numpy().data, crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def tokenizer_fingerprint(tokenizer: Any) -> dict[str, str | None]:
    """Tell tokenizers apart, by their vocabulary and special tokens, and by their rules.

    The rules are what a fast tokenizer says of its normaliser and what comes before and after the
    vocabulary; None where it does not say. What is no tokenizer of transformers has no fingerprint.

    Cost: looks at the whole vocabulary once, about 0.1 s for 50,000 entries.

    Example:
        >>> tokenizer_fingerprint(object())
        {'vocabulary': None, 'rules': None}
    """
    return {"vocabulary": _vocabulary(tokenizer), "rules": _rules(tokenizer)}


def _vocabulary(tokenizer: Any) -> str | None:
    if not hasattr(tokenizer, "get_vocab"):
        return None
    vocabulary = tokenizer.get_vocab()
    special = getattr(tokenizer, "special_tokens_map", {})
    entries = [f"{vocabulary[token]} {token}" for token in sorted(vocabulary, key=vocabulary.get)]
    return _of_text("\n".join([*entries, json.dumps(special, default=str, sort_keys=True)]))


def _rules(tokenizer: Any) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [getattr(backend, name, None) for name in _RULES]
    if not any(hasattr(part, "__getstate__") for part in parts if part is not None):
        return None
    try:
        # each says what it does in JSON; of truncation and padding only the last call could be said
        states = [b"" if part is None else bytes(part.__getstate__()) for part in parts]
    except Exception:  # noqa: BLE001  # rules in Python: tokenizers raises nothing more special
        return None
    return f"{crc32(b';'.join(states)):08x}"


def corpus_fingerprint(data: object, *, first: int | None = None) -> dict[str, Any]:
    """Tell corpora apart: how many items, and CRC-32 of what a model would read of them, in order.

    `crc32` is that of a list or tuple, which can be looked at without cost or effect; None of what
    may be read once or computes what it gives. User columns do not count. `fingerprint` is what a
    `datasets.Dataset` calls so.

    Args:
        data: The corpus.
        first: Look at so many items only.

    Cost: reads every item of a list once; nothing is tokenised.

    Example:
        >>> corpus_fingerprint(["a", "b"]) == corpus_fingerprint([{"text": "a", "n": 1}, "b"])
        True
        >>> corpus_fingerprint(["b", "a"]) == corpus_fingerprint(["a", "b"])
        False
    """
    items = data[:first] if isinstance(data, list | tuple) else None
    return {
        "items": len(data if items is None else items) if isinstance(data, Sized) else None,
        "crc32": None if items is None else _of_items(items),
        "fingerprint": getattr(data, "_fingerprint", None),
    }


def _of_items(items: Iterable[Any]) -> str | None:
    try:
        return _crc_of_items(items)
    except (TypeError, ValueError, CaptureError):  # an item that is none: said when its turn comes
        return None


def _crc_of_items(items: Iterable[Any]) -> str:
    checksum = 0
    for item in items:
        plain = item if isinstance(item, Mapping) else {_kind(item): item}
        for key in _READ:
            if plain.get(key) is not None:
                content = _bytes_of(plain[key])
                checksum = crc32(f"{key}:{len(content)};".encode(), checksum)
                checksum = crc32(content, checksum)
        checksum = crc32(b"\n", checksum)
    return f"{checksum:08x}"


def _kind(item: object) -> str:
    return "text" if isinstance(item, str) else "input_ids"


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        # numpy has no bfloat16
        return value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    array = np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value)
    if array.dtype.kind not in "iufb":
        raise CaptureError(f"{type(value).__name__} is nothing that a model reads.")
    whole = array.dtype.kind in "iu"  # a list of ints and an array of them are one corpus
    return array.astype("<i8").tobytes() if whole else array.tobytes()


def _of_text(text: str) -> str:
    return f"{crc32(text.encode(errors='surrogatepass')):08x}"
