"""The names that patterns mean in a cache, in numeric order: `resid_out_2` before `resid_out_10`.

Pure. The patterns are those of capture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lazycache.cache.names.name_lookup import Names, resolve
from lazycache.catalog.name_patterns import is_pattern, matching
from lazycache.catalog.natural import natural_key
from lazycache.errors import SiteNotFoundError, nearest


def matching_keys(patterns: Sequence[object], names: Names) -> list[str]:
    """Return the names that any of the patterns means, each once, in numeric order.

    A pattern is a glob (`resid_out_*`, `mlp_act_{3,7}`, `resid_out_[4-11]`), `re:` and a regular
    expression that matches in full, or any key that means one site, `("resid_post", 3)`; of a list
    or another iterable each is one. `!PATTERN` takes back what the patterns before it found.

    Raises:
        SiteNotFoundError: a pattern means nothing that is there; names the nearest.

    Example:
        >>> there = Names(["logits", "resid_out_10", "resid_out_2"], "here")
        >>> matching_keys(["resid_out_*"], there), matching_keys(["*", "!re:resid.*"], there)
        (['resid_out_2', 'resid_out_10'], ['logits'])
    """
    return sorted(in_order(patterns, names), key=natural_key)


def in_order(patterns: Sequence[object], names: Names) -> list[str]:
    """Return the names that patterns mean, each once, in the order of the patterns.

    Those of one pattern are in numeric order.

    Example:
        >>> in_order(["b", "a*"], Names(["a10", "a2", "b"], "here"))
        ['b', 'a2', 'a10']
    """
    found: dict[str, None] = {}
    for pattern in _flat(patterns):
        if isinstance(pattern, str) and pattern.startswith("!"):
            for name in _meant(pattern[1:], names):
                found.pop(name, None)
        else:
            found |= dict.fromkeys(_meant(pattern, names))
    return list(found)


def _flat(patterns: Iterable[object]) -> Iterable[object]:
    """Yield the patterns; a tuple is one key, other collections hold several."""
    for pattern in patterns:
        if isinstance(pattern, Iterable) and not isinstance(pattern, str | tuple):
            yield from pattern
        else:
            yield pattern


def _meant(pattern: object, names: Names) -> list[str]:
    if isinstance(pattern, str) and is_pattern(pattern) and pattern not in names.there:
        texts = [name for name in names.there if isinstance(name, str)]
        found = sorted(matching(pattern, texts), key=natural_key)
        if not found:
            there = nearest(pattern, texts)
            raise SiteNotFoundError(f"nothing in {names.where} fits {pattern!r}. {there}")
        return found
    return [resolve(pattern, names)]
