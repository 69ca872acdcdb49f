"""What an `ActivationCache` is made of, and how a key finds its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.names.head_names import parse
from lazycache.cache.names.name_lookup import Names, resolve
from lazycache.cache.tables.token_ids import INPUT_IDS
from lazycache.cache.values.joining import joined
from lazycache.errors import SiteNotFoundError
from lazycache.mapping.aggregation_rules import AggregationRules
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import StoredSite


class CacheState:
    """Entries by name, the datasets behind them, the strategies, and what waits to be joined."""

    def __init__(self) -> None:
        self.segments: dict[str, Segments] = {}
        """The parts of each key, in order. For this package."""
        self.datasets: tuple[StoredSites, ...] = ()
        """The opened datasets behind it, in the order in which they came."""
        self.strategies = AggregationRules()
        """How `cat` joins some keys. For this package."""
        self._queue: list[CacheState] | None = None

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[str]:
        return iter(self.segments)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.segments)

    def __contains__(self, key: object) -> bool:
        if self.segments_of(key) is not None or self._token_ids(key):
            return True
        try:
            name = resolve(key, self.names)
            if name not in self.segments:
                self._part(name)  # whether there is such a head
        except SiteNotFoundError:
            return False
        return True

    def __getitem__(self, key: Any) -> Any:
        segments = self.segments_of(key)
        if segments is not None:
            return segments.value()
        if ids := self._token_ids(key):
            return _one([part.tensor(INPUT_IDS) for part in ids])
        if any(one.has_token_ids(key) for one in self.datasets):
            raise SiteNotFoundError(
                f"{key!r}: the keys of this cache are of different tokens, or some of tensors in "
                f"memory. Ask a dataset for its own: cache.datasets[0].tensor({key!r})."
            )
        name = resolve(key, self.names)
        if name in self.segments:
            return self.segments[name].value()
        return self._part(name)

    def _token_ids(self, key: object) -> tuple[StoredSite, ...]:
        """Return sites whose tokens a key is the ids of: those of all keys, if these agree.

        Ids of other tokens than those of the sites would be found beside them, row by row.
        """
        stored = [one for one in self.segments.values() if one.stored]
        rows = {tuple(part.sites for part in one.stored): one.stored for one in stored}
        if len(rows) > 1 or not all(one.is_stored for one in stored):
            return ()
        found = next(iter(rows.values()), [StoredSite(one, INPUT_IDS) for one in self.datasets])
        return tuple(found) if all(part.sites.has_token_ids(key) for part in found) else ()

    def segments_of(self, key: object) -> Segments | None:
        """Return what is kept under exactly this key. For this package."""
        return self.segments.get(key) if isinstance(key, str) else None

    def _part(self, name: str) -> Any:
        """Return one head of a site: of each dataset that has the site, joined as the site is."""
        head = parse(name)
        assert head is not None, "what is found is an entry, or a head of one"
        return _one([part.tensor(name) for part in self.segments[head.site].stored])

    @property
    def names(self) -> Names:
        """What keys can mean here. For this package."""
        infos = [run.info for one in self.datasets for run in one.snapshot.runs.values()]
        headed = [key for key, segments in self.segments.items() if segments.is_stored]
        where = self.datasets[0].url if len(self.datasets) == 1 else "this cache"
        return Names(self.segments, where, tuple(infos), headed)

    def share(self, other: CacheState) -> None:
        """Refer to the datasets of another cache too. For this package."""
        self.datasets += tuple(one for one in other.datasets if one not in self.datasets)

    def forked(self) -> dict[str, Segments]:
        """Return the parts of each key, to be changed on their own. For this package."""
        return {key: segments.copy() for key, segments in self.segments.items()}


def _one(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else joined(tensors)
