"""`memory_size` and `memory_tree` of an `ActivationCache`."""

from __future__ import annotations

import sys

from lazycache.mapping.cache_state import CacheState
from lazycache.mapping.memory_tree import (
    Tree,
    grouped,
    lines,
    segments_bytes,
    size_text,
    tree,
)


class MemorySizes(CacheState):
    """Says how large the values of a cache are."""

    def memory_size(self, key: str | None = None) -> str:
        """Return the bytes of one value, or of all, as text in decimal units.

        Tensors in lists, tuples, dicts and values with info count; of a site its stored bytes.

        Cost: reads nothing.

        Example:
            >>> import torch
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache({"x": torch.ones(5, 5), "y": [torch.ones(225)]})
            >>> cache.memory_size("x"), cache.memory_size(), cache.memory_size("z")
            ('100 B', '1.00 KB', 'Not present: 0 B')
        """
        if key is None:
            return size_text(sum(map(segments_bytes, self.segments.values())))
        segments = self.segments_of(key)
        return "Not present: 0 B" if segments is None else size_text(segments_bytes(segments))

    def memory_tree(self, print_tree: bool = False, grouped_tree: bool = False) -> Tree:
        """Return the size of each key as text; of dicts and lists of tensors, of each part.

        Args:
            print_tree: Show it, too.
            grouped_tree: One entry for all keys that differ in numbers only, layers and heads:
                `resid_out_*`.

        Example:
            >>> import torch
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache({f"resid_out_{i}": torch.ones(2, 750) for i in range(2)})
            >>> cache.memory_tree(grouped_tree=True)
            {'resid_out_*': '12.00 KB (2 items)'}
            >>> _ = cache.memory_tree(print_tree=True)
            ├── resid_out_0: 6.00 KB
            └── resid_out_1: 6.00 KB
        """
        sizes = grouped(self.segments) if grouped_tree else tree(self.segments)
        if print_tree:
            sys.stdout.write("".join(f"{line}\n" for line in lines(sizes)))
        return sizes
