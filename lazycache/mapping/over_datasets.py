"""The datasets behind an `ActivationCache`: where they are, what was read of them, SQL, closing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from types import TracebackType
from typing import Any, Self

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.site_reader import SiteReader
from lazycache.catalog.natural import natural_key
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import NoDatasetError, QueryError, SiteNotFoundError, nearest
from lazycache.mapping.cache_state import CacheState
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import StoredEntry, StoredSite, stored_parts
from lazycache.storage.store import Store
from lazycache.types import IoCounters, SiteSpec


class OverDatasets(CacheState):
    """What a cache says of the datasets behind it: none in memory, one opened, several joined."""

    @property
    def stored(self) -> StoredSites:
        """The dataset behind it. For this package.

        Raises:
            NoDatasetError: there is none, or there are several: see `datasets`. To `hasattr`, then,
                it is not there.
        """
        if len(self.datasets) == 1:
            return self.datasets[0]
        if not self.datasets:
            raise NoDatasetError(
                "This cache is in memory: there is no dataset behind it. cache.save(url) makes "
                "one, lc.open(url) opens it."
            )
        urls = ", ".join(one.url for one in self.datasets)
        raise NoDatasetError(
            f"This cache joins {len(self.datasets)} datasets: {urls}. Ask one: cache.datasets[0]."
        )

    @property
    def joins(self) -> int:
        """How many datasets' rows it shows; one that is here twice is two. For this package."""
        return max([len(self.datasets), *(len(one.stored) for one in self.segments.values())])

    @property
    def store(self) -> Store:
        """Where the bytes are."""
        return self.stored.store

    @property
    def snapshot(self) -> Snapshot:
        """What there is, at which version."""
        return self.stored.snapshot

    @property
    def reader(self) -> SiteReader:
        """Reads absolute rows; SQL reads through it too. For this package."""
        return self.stored.reader

    @property
    def url(self) -> str:
        """The address it was opened with."""
        return self.stored.url

    @property
    def version(self) -> int:
        """Version of the snapshot."""
        return self.stored.version

    @property
    def sites(self) -> Mapping[str, SiteSpec]:
        """What a row of each site is, by name. Computed sites have the layout `computed`."""
        return self.stored.sites

    @property
    def io(self) -> IoCounters:
        """What was read since it was opened, or since `io.reset()`; of several datasets the sum."""
        if len(self.datasets) == 1:
            return self.datasets[0].io
        return SummedCounters([one.io for one in self.datasets])

    @property
    def progress(self) -> bool:
        """Whether reads that take longer than two seconds show a bar on a terminal or notebook.

        May be set; it is of the datasets behind the cache, and so of what was made of it. True
        without one. `LAZYCACHE_PROGRESS=0` in the environment turns all bars off.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache.progress = False
            >>> cache.where("position > 0").progress
            False
        """
        return all(one.io.progress for one in self.datasets)

    @progress.setter
    def progress(self, show: bool) -> None:
        for one in self.datasets:
            one.io.progress = show

    def stored_bytes(self, site: str) -> int:
        """Return the bytes of a site's values in datasets; 0 of one that is computed.

        Raises:
            SiteNotFoundError: no such site; names the nearest.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().stored_bytes("resid_out_0")  # six rows of two float32
            48
        """
        return sum(part.sites.stored_bytes(part.name) for part in self._sites_of(site))

    def rows(self, site: str) -> int:
        """Return how many rows a site has values for in datasets; 0 of what is in memory.

        Raises:
            SiteNotFoundError: no such site; names the nearest.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().rows("resid_out_0")
            6
        """
        return sum(part.sites.rows(part.name) for part in self._sites_of(site))

    def _sites_of(self, site: str) -> list[StoredSite]:
        segments = self.segments_of(site)
        if segments is None:
            there = nearest(str(site), self.segments)
            raise SiteNotFoundError(f"there is no site {site!r} in {self.names.where}. {there}")
        return segments.stored

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> Any:
        """Ask in SQL; see `lazycache.query`.

        Tables are `tokens` and `examples`, with every site as a lazy column, and `sites`,
        `statistics`, `shards`, `chunks`, `commits`, `runs`; where the dataset has such rows also
        `decoder_tokens` and the tables of calls, `calls`, `example_calls`, `decoder_calls`.
        `unit(site, i)` is one unit of a row, 0-based. What was set, deleted, or joined from memory
        in this cache does not change what the dataset answers. Several datasets in one query:
        `lc.connect`.

        Args:
            query: A statement that reads.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping).
            tables: Tables of your own for this query alone, by name: pandas or Polars DataFrames,
                Arrow tables, dicts of columns.

        Returns:
            The result: `.fetchall() .fetchone() .df() .arrow() .pl() .torch() .relation() .show()`.

        Raises:
            QueryError: it cannot be answered; names the nearest columns and tables. Also of a cache
                in memory, or of several datasets; and of a table that cannot be one of SQL.
            StorageError: it was closed.
            ReadOnlyError: the statement writes.

        Cost: the first query of a snapshot builds its index from the table files (kept in the
        user's cache directory). Of a site, only rows that survive the cheaper predicates are read.

        Example:
            >>> import tempfile, torch, lazycache as lc
            >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4))
            >>> cache = lc.extract(model, [[1, 2], [3, 4]], tempfile.mkdtemp(), "0")
            >>> cache.sql("SELECT count(*), max(position) FROM tokens").fetchall()
            [(4, 1)]
        """
        if not self.datasets:
            raise QueryError(
                "SQL asks a dataset, and this cache is in memory: cache.save(url), then "
                "lc.open(url).sql(...)."
            )
        joined = self.joins
        if joined > 1:
            raise QueryError(
                f"SQL asks one dataset, and this cache joins {joined}: ask each, "
                "[one.sql(query) for one in cache.datasets], or give each a name, "
                'lc.connect({"a": url, "b": other}).sql("... FROM a.tokens JOIN b.tokens ...").'
            )
        return self.datasets[0].sql(query, params, tables=tables)

    def close(self) -> None:
        """Drop the file maps and the index; further reads are refused. Loaded tensors stay.

        Also for other caches over the same opened datasets: copies, and what it was joined into.
        """
        for one in self.datasets:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def replace_datasets(self, changed: Mapping[int, StoredSites]) -> None:
        """Put other datasets in the places of those behind this. For this package.

        Keys that the new ones lack go, names that only they have come. What was deleted stays so;
        what is in memory stays, but for what they have as a site since it was persisted.

        Args:
            changed: The new ones, by the `id` of the old.
        """
        before = self.datasets
        self.datasets = tuple(changed.get(id(one), one) for one in before)
        moved = {
            key: _over(old, changed)
            for key, old in self.segments.items()
            if not _is_site_of(self.datasets, key, old.site_since)
        }
        kept = {key: new for key, new in moved.items() if new.parts}
        for name, parts in _added(before, self.datasets).items():
            kept.setdefault(name, Segments(parts))
        stored = sorted((key for key, one in kept.items() if one.is_stored), key=natural_key)
        self.segments = {key: kept[key] for key in dict.fromkeys([*stored, *kept])}


def _is_site_of(datasets: Sequence[StoredSites], key: str, since: int) -> bool:
    """Whether the one dataset has a value as a site, which it became with a version."""
    if len(datasets) != 1:
        return False
    return 0 < since <= datasets[0].version and key in datasets[0].sites


def _over(segments: Segments, changed: Mapping[int, StoredSites]) -> Segments:
    """Return the same parts of other datasets, without what these do not have."""
    parts = [_moved(part, changed) for part in segments.parts]
    return segments.with_parts([part for part in parts if part is not None])


def _moved(part: Any, changed: Mapping[int, StoredSites]) -> Any:
    if not isinstance(part, (StoredSite, StoredEntry)):
        return part
    sites = changed.get(id(part.sites), part.sites)
    there = sites.sites if isinstance(part, StoredSite) else sites.snapshot.entries
    return replace(part, sites=sites) if part.name in there else None


def _added(
    before: Sequence[StoredSites], after: Sequence[StoredSites]
) -> dict[str, list[StoredSite | StoredEntry]]:
    """Return what all datasets have that none had before, by name in natural order."""
    if not after:
        return {}
    old, new = list(map(stored_parts, before)), list(map(stored_parts, after))
    names = [name for name in new[0] if all(name in one for one in new)]
    return {name: [one[name] for one in new] for name in names if not any(name in o for o in old)}


class SummedCounters(IoCounters):
    """What was read of several datasets: the sums at the time of asking."""

    def __init__(self, counters: Sequence[IoCounters]) -> None:
        names = [one.name for one in fields(IoCounters) if one.compare]
        super().__init__(**{name: sum(getattr(one, name) for one in counters) for name in names})
        self._counters = counters

    def reset(self) -> None:
        """Start again from zero, in every dataset."""
        super().reset()
        for one in self._counters:
            one.reset()
