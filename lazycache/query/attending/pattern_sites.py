"""Sites of attention patterns, as a question names them, and the tokens that their keys are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from lazycache.cache.names.head_names import parse
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.catalog.name_patterns import is_pattern, matching
from lazycache.catalog.natural import natural_key
from lazycache.errors import QueryError, SiteNotFoundError, nearest
from lazycache.types import RAGGED, TOKENS

if TYPE_CHECKING:
    from lazycache.query.asked import Cache

Layer: TypeAlias = "int | str"
"""A layer by its number, negative from the last, or the name of a site."""


def pattern_of(cache: Cache, layer: Layer) -> RaggedTensor:
    """Return the attention pattern of a layer; of a name of one head (`pattern_L3H0`) that head.

    Raises:
        SiteNotFoundError: it is not stored; says which are, and what to capture.
        QueryError: the site is no attention pattern.
    """
    found = _looked_up(cache, layer)
    if not isinstance(found, RaggedTensor):
        raise QueryError(
            f"{layer!r} is no attention pattern: ask a layer, or a site such as 'pattern_0'. "
            f"{_there(cache, str(layer))}"
        )
    return found


def patterns_of(cache: Cache, layers: Layer | Sequence[Layer]) -> list[RaggedTensor]:
    """Return the attention patterns of layers, or of names that fit a pattern, in numeric order.

    Raises as `pattern_of`.
    """
    if isinstance(layers, str) and is_pattern(layers):
        names = matching(layers, stored_patterns(cache))
        if not names:
            raise SiteNotFoundError(
                f"no attention pattern fits {layers!r}. {_there(cache, layers)} {_ADVICE}"
            )
        return [pattern_of(cache, name) for name in sorted(names, key=natural_key)]
    if isinstance(layers, int | str):
        return [pattern_of(cache, layers)]
    if not len(layers):
        raise QueryError("no layer is named: give a number, a list of them, or 'pattern_*'.")
    return [pattern_of(cache, layer) for layer in layers]


def is_one(layers: Layer | Sequence[Layer]) -> bool:
    """Whether one layer is meant, so that the result has no dimension of layers.

    Example:
        >>> is_one(3), is_one("pattern_3"), is_one("pattern_*"), is_one([3])
        (True, True, False, False)
    """
    return isinstance(layers, int) or (isinstance(layers, str) and not is_pattern(layers))


def stored_patterns(cache: Cache) -> list[str]:
    """Return the names of the attention patterns of all datasets behind a cache."""
    found = (one.sites.values() for one in cache.datasets)
    return list(dict.fromkeys(s.name for specs in found for s in specs if s.layout == RAGGED))


def keys_table(x: RaggedTensor) -> str:
    """Return the table whose rows are the keys: those of the encoder where a decoder looks there.

    Example:
        >>> from lazycache.samples import pattern_cache
        >>> keys_table(pattern_cache()["pattern_0"])
        'tokens'
    """
    return TOKENS if ".cross_pattern_" in f".{x.site}" else x.source.spec.table


def _looked_up(cache: Cache, layer: Layer) -> object:
    try:
        return cache[layer if isinstance(layer, str) else ("pattern", layer)]
    except SiteNotFoundError as exc:
        name = layer if isinstance(layer, str) else f"pattern_{layer}"
        named = parse(name)
        if named is not None and named.site in stored_patterns(cache):
            raise  # the layer is there: it is the head that is not
        raise SiteNotFoundError(
            f"the attention pattern {name!r} is not stored. {_there(cache, name)} {_ADVICE}"
        ) from exc


_ADVICE = "To have it, capture the site pattern_L of layer L, with eager attention."


def _there(cache: Cache, name: str) -> str:
    known = stored_patterns(cache)
    return f"Of attention patterns: {nearest(name, known)}" if known else "No pattern is stored."
