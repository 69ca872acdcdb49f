"""Which sites a caller names, where only whole ones can be taken."""

from __future__ import annotations

from collections.abc import Sequence

from lazycache.errors import SelectionError
from lazycache.mapping.activation_cache import ActivationCache


def whole_sites(cache: ActivationCache, patterns: str | Sequence[str], *, what: str) -> list[str]:
    """Return the sites and values of a cache that patterns mean. Reads nothing.

    Raises:
        SiteNotFoundError: a pattern fits nothing; names the nearest.
        SelectionError: no pattern, or the name of a part of a site, as one head.

    Example:
        >>> from lazycache.samples import pattern_cache
        >>> whole_sites(pattern_cache(), ["*_0", "!z_0"], what="copy")
        ['head_out_0', 'pattern_0']
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    if not given:
        raise SelectionError(f"{what}(sites=[]) names no site: leave it out to {what} them all.")
    names = cache.keys(*given)
    known = set(cache.keys())
    for name in names:
        if name not in known:
            raise SelectionError(
                f"{name!r} is a part of a site; {what} takes whole ones: name the site."
            )
    return names
