"""How a cache finds several of its entries by their names: patterns of keys, stacks of layers."""

from __future__ import annotations

from collections.abc import KeysView, Mapping
from typing import TYPE_CHECKING, Any, cast, overload

from lazycache.cache.names.key_patterns import in_order, matching_keys
from lazycache.cache.stacks.stack import LazyStack

if TYPE_CHECKING:
    from lazycache.cache.names.name_lookup import Names


class ByName:
    """`keys` and `stack` of a cache. Needs `names`; stands before the mapping it belongs to."""

    __slots__ = ()

    @overload
    def keys(self) -> KeysView[str]: ...
    @overload
    def keys(self, *patterns: object) -> list[str]: ...
    def keys(self, *patterns: object) -> KeysView[str] | list[str]:
        """Return the names of all entries, or those that fit patterns in numeric order.

        Without patterns a live view, in the order of the cache. Patterns are those of capture:
        `resid_out_*`, `mlp_act_{3,7}`, `resid_out_[4-11]`, `re:...`, and `!PATTERN` takes back
        what those before it found. Also any other name that means one entry.

        Cost: reads nothing.

        Raises:
            SiteNotFoundError: a pattern fits nothing; names the nearest.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> pattern_cache().keys("*_0", "!pattern_*")
            ['head_out_0', 'z_0']
        """
        if patterns:
            return matching_keys(patterns, self._names)
        return cast("KeysView[str]", cast("Any", super()).keys())

    def stack(self, *patterns: object) -> LazyStack:
        """Return the entries that fit patterns as one lazy tensor: [layers, *entry].

        Patterns are those of `keys`; layers are in numeric order inside each pattern. A name of one
        head, `z_L0H3`, is one of them too.

        Cost: reads nothing.

        Raises:
            SiteNotFoundError: a pattern fits nothing; names the nearest.
            SelectionError: the entries are no tensors, or differ in shape or in their rows.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stack("resid_out_*").shape
            torch.Size([1, 3, 3, 2])
        """
        cache = cast("Mapping[str, Any]", self)
        found = in_order(patterns, self._names)
        return LazyStack({name: cache[name] for name in found})

    @property
    def _names(self) -> Names:
        names: Names = cast("Any", self).names
        return names
