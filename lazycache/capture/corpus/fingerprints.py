"""Short numbers that tell models, tokenizers and corpora apart: CRC-32 of what they consist of."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

from lazycache.codec.checksum import crc32
from lazycache.errors import CaptureError

_LOOKED_AT = 64  # numbers of each parameter that count by their place, beside the sum of all
_WORD = 8  # bytes of an int64

_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_READ = ("text", "input_ids", "attention_mask", "decoder_input_ids", "pixel_values", "example")
"""Keys of an item that decide what the model reads, or under which id."""


def weights_fingerprint(model: nn.Module) -> str | None:
    """Tell weights apart: CRC-32 of name, some numbers and the sum of all bits of every parameter.

    So one neuron that was switched off is another model too, and other running statistics: buffers
    count that a checkpoint would save. None for weights that cannot be looked at: on the meta
    device, or sparse.

    Cost: reads every parameter once, about 10 GB/s on one core.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = weights_fingerprint(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> before == weights_fingerprint(layer)
        False
    """
    checksum = 0
    for name, parameter in _saved(model):
        if parameter.is_meta or parameter.layout != torch.strided:
            return None
        flat = parameter.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // _LOOKED_AT)]
        whole, tail = _words(flat)
        checksum = crc32(name.encode(), checksum)
        for numbers in (some, tail, whole.sum().reshape(1)):
            plain = numbers.cpu().contiguous().view(torch.uint8)
            checksum = crc32(plain.numpy().data, checksum)
    return f"{checksum:08x}"


def _saved(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    buffers = dict(model.named_buffers())
    if buffers:
        kept = model.state_dict().keys()  # tables that a model computes itself are not among them
        yield from ((name, buffer) for name, buffer in buffers.items() if name in kept)


def _words(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bits of numbers as int64, and the numbers at the end that fill no word.

    Sums of whole numbers are the same on every device and in every order.
    """
    if flat.storage_offset() * flat.element_size() % _WORD:
        flat = flat.clone()  # a view of wider numbers begins where one could
    stop = len(flat) - len(flat) % max(1, _WORD // flat.element_size())
    return flat[:stop].view(torch.int64), flat[stop:]


def function_fingerprint(function: object) -> str:
    """Tell functions of one name apart: CRC-32 of source and of plain values it closes over.

    Functions without source (typed into a prompt) count by their bytecode. What a function reads
    elsewhere, a global or an attribute, does not count.

    Example:
        >>> def scaled(k):
        ...     return lambda x: x * k
        >>> function_fingerprint(scaled(1)) == function_fingerprint(scaled(100))
        False
    """
    return f"{crc32(_told(function).encode()):08x}"


def _told(value: object, *, inside: tuple[object, ...] = ()) -> str:
    """Say what a function does, as text that is the same in another process."""
    within = (*inside, value)
    if isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords, *value.keywords.values()]
        return f"partial({', '.join(_told(part, inside=within) for part in parts)})"
    function = value.__func__ if isinstance(value, MethodType) else value
    # one that calls itself closes over itself
    if not isinstance(function, FunctionType) or any(value is outer for outer in inside):
        plain = value is None or isinstance(value, str | bytes | int | float | complex)
        return repr(value) if plain else str(getattr(value, "__qualname__", type(value)))
    cells = [_content(cell) for cell in function.__closure__ or ()]
    parts = [*(function.__defaults__ or ()), *cells]
    told = [_told(part, inside=within) for part in parts]
    return "; ".join([_source(function.__code__), *told])


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return None


def _source(code: CodeType) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return f"{sys.version_info[:2]} {code.co_code.hex()} {code.co_names}"


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
