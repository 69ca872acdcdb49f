"""Batches for training of several sites, as a method of a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from lazycache.cache.names.key_patterns import in_order
from lazycache.cache.reading.front_door import FRONT_DOOR

if TYPE_CHECKING:
    from lazycache.feed.loader import Loader


class Feeding:
    """`loader` of a cache."""

    __slots__ = ()

    def loader(self, sites: str | Sequence[str], batch_size: int, **options: Any) -> Loader:
        """Return batches of several sites for training, the same rows of each: dicts by name.

        Of one site as `cache[site].loader(...)`. Sites may differ in shape and dtype; they must
        have the same rows. `cache.stack(...).loader(...)` gives one tensor of sites of one shape.

        Args:
            sites: Names or patterns, as `cache.keys` takes them.
            batch_size: Rows of a batch.
            **options: As of `LazyTensor.loader`. `norm` may be a dict by site.

        Cost: as `LazyTensor.loader`, of each site.

        Raises:
            SiteNotFoundError: a pattern fits nothing; names the nearest.
            SelectionError: sites with different rows, or rows that differ in width.

        Example:
            >>> from lazycache.samples import pattern_cache
            >>> loader = pattern_cache().loader(["z_0", "head_out_0"], 4)
            >>> {name: tuple(values.shape) for name, values in next(iter(loader)).items()}
            {'z_0': (4, 2, 1), 'head_out_0': (4, 2, 3)}
        """
        patterns = (sites,) if isinstance(sites, str) else tuple(sites)
        cache = cast("Mapping[str, Any]", self)
        found = in_order(patterns, cast("Any", self).names)
        loader: Loader = FRONT_DOOR.loader(
            {name: cache[name] for name in found}, batch_size, **options
        )
        return loader
