"""Key-value caches that a forward pass is given or gives: how one is known to continue another.

By what they can do, not by their class: nothing of transformers is imported.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from lazycache.capture.values.tensors import first_tensor
from lazycache.errors import CaptureError

LAYER_NDIM = 3
"""Keys of a layer are [batch, heads, tokens, units], or [batch * heads, tokens, units]."""

_NAMES = ("past_key_values", "cache_params", "past_buckets_states", "mems", "state")
"""Names under which models of transformers take and give their caches."""


def given_cache(named: Mapping[str, Any]) -> Any:
    """Return the cache that a forward pass was called with; None if with none.

    Example:
        >>> given_cache({"input_ids": 1, "past_key_values": None}) is None
        True
    """
    given = (named.get(name) for name in _NAMES)
    return next((cache for cache in given if cache is not None), None)


def cached_tokens(cache: Any) -> int | None:
    """Return how many tokens a cache holds; None if it does not say.

    Example:
        >>> cached_tokens(None), cached_tokens(()), cached_tokens(object()) is None
        (0, 0, True)
    """
    if cache is None:
        return 0
    ask = getattr(cache, "get_seq_length", None)
    if ask is not None:
        try:
            return int(ask())
        except ValueError:  # a cache of states without positions
            return None
    if isinstance(cache, tuple | list):
        # the form of older models, [layer][key or value]: only made once something was seen
        first = first_tensor(cache)
        return 0 if first is None or first.ndim < LAYER_NDIM else int(first.shape[-2])
    return None


def refuse_continuation(named: Mapping[str, Any]) -> None:
    """Refuse a forward pass that continues a cache whose beginning is in no open generation.

    Raises:
        CaptureError: it does.

    Example:
        >>> refuse_continuation({"past_key_values": None})
    """
    cache = named.get("past_key_values")
    if cached_tokens(cache):
        raise CaptureError(
            f"This forward continues a key-value cache of {cached_tokens(cache)} tokens whose "
            "beginning is not part of what is being captured: its tokens would be stored without "
            "those before them. A loop over past_key_values is one generation if it begins in the "
            "block, in the same thread, with past_key_values=DynamicCache() or use_cache=True, and "
            "nothing comes between: no other forward pass and no commit(). Caches of older models "
            "(tuples) and copies of a cache cannot be followed. Otherwise run the model once over "
            "the whole sequence, without a cache."
        )


def asks_for_cache(named: Mapping[str, Any]) -> bool:
    """Say whether a forward pass may be the first of a loop: its caller asked for a cache.

    Example:
        >>> asks_for_cache({"use_cache": True}), asks_for_cache({"past_key_values": None})
        (True, False)
    """
    if named.get("use_cache") is False:
        return False
    cache = named.get("past_key_values")
    return named.get("use_cache") is True or hasattr(cache, "get_seq_length")


class KnownCaches:
    """The caches of one generation, by identity, without keeping them alive.

    Example:
        >>> class Cache:
        ...     pass
        >>> known, cache = KnownCaches(), Cache()
        >>> known.add([cache, None])
        >>> cache in known, Cache() in known
        (True, False)
    """

    def __init__(self) -> None:
        self._known: list[weakref.ref[Any]] = []

    def add(self, caches: Iterable[Any]) -> None:
        """Know these too; what cannot be referred to (a tuple) is not known again."""
        for cache in caches:
            if cache is not None and not isinstance(cache, tuple | list) and cache not in self:
                self._known.append(weakref.ref(cache))

    def __contains__(self, cache: object) -> bool:
        """Say whether it is one of them."""
        return any(known() is cache for known in self._known)


def returned_cache(output: object) -> Any:
    """Return the cache in what a forward pass gave; None if there is none.

    Example:
        >>> returned_cache({"logits": 1, "past_key_values": "cache"})
        'cache'
    """
    if isinstance(output, Mapping):
        return given_cache(output)
    if isinstance(output, tuple):
        return next((part for part in output if hasattr(part, "get_seq_length")), None)
    return None
