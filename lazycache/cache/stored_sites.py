"""The sites of one dataset at one version, by name: what an `ActivationCache` reads from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from lazycache.cache import examples as example_maps
from lazycache.cache.examples import ExampleMap
from lazycache.cache.head_names import HeadName, parse
from lazycache.cache.heads import place_of
from lazycache.cache.lazy_tensor import LazyTensor
from lazycache.cache.plan_checks import check_spec
from lazycache.cache.ragged_tensor import RaggedTensor
from lazycache.cache.site_reader import SiteReader
from lazycache.cache.source import Source
from lazycache.catalog.computed import all_sites
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import QueryError, SiteNotFoundError, nearest
from lazycache.storage.store import Store
from lazycache.types import CALLS_OF, EXAMPLES, RAGGED, IoCounters, SiteSpec


class Connection(Protocol):
    """What answers SQL over a snapshot: `lazycache.query.sql.Connection`."""

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Return the result of one query."""
        ...

    def close(self) -> None:
        """Release the index."""
        ...


Connect = Callable[[Snapshot, SiteReader, Store], Connection]
"""Makes one; given by the front door, since queries are a stage above this one."""

BUDGET_BYTES = 4 << 30
"""Default of what a torch function or `np.asarray` may load."""


class StoredSites:
    """The sites of one snapshot of a dataset, stored and computed; lazy tensors by name.

    Opening and looking up read nothing; `io` counts what is read later. Shows one snapshot: later
    commits do not change it. May be shared between threads. Tensors that were loaded stay valid
    when it is closed.
    """

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        *,
        io: IoCounters | None = None,
        check: bool = False,
        budget_bytes: int = BUDGET_BYTES,
        connect: Connect | None = None,
    ) -> None:
        self.store = store
        """Where the bytes are."""
        self.snapshot = snapshot
        """What there is, at which version."""
        self.io = IoCounters() if io is None else io
        """What was read since it was opened, or since `io.reset()`."""
        self.reader = SiteReader(store, snapshot, io=self.io, check=check)
        """Reads absolute rows; SQL reads through it too."""
        self._sites = all_sites(snapshot)
        self._budget_bytes = budget_bytes
        self._connect = connect
        self._connection: Connection | None = None
        self._maps: dict[str, ExampleMap] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address it was opened with."""
        return self.store.url

    @property
    def version(self) -> int:
        """Version of the snapshot."""
        return self.snapshot.version

    @property
    def sites(self) -> Mapping[str, SiteSpec]:
        """What a row of each site is, by name. Computed sites have the layout `computed`."""
        return self._sites

    def stored_bytes(self, site: str) -> int:
        """Return the bytes of a site's values in the dataset; 0 of one that is computed.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        if site in self.reader.computed:
            return 0
        chunks = [chunk for shard in self.snapshot.shards(site) for chunk in shard.ref.chunks]
        units = sum(chunk.rows if chunk.width is None else chunk.width for chunk in chunks)
        return units * self._sites[site].row_bytes

    def rows(self, site: str) -> int:
        """Return how many rows a site has values for.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        one = self.reader.computed.get(site)
        return self.snapshot.covered(site) if one is None else one.rows

    def tensor(self, site: str) -> LazyTensor | RaggedTensor:
        """Return a site, or a head of one, as a lazy tensor. Reads nothing.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        spec = self._sites.get(site)
        if spec is not None:
            return self._tensor(spec)
        name = parse(site) if isinstance(site, str) else None
        spec = None if name is None else self._sites.get(name.site)
        if name is None or spec is None:
            there = nearest(str(site), self._sites)
            raise SiteNotFoundError(f"there is no site {site!r} in {self.url}. {there}")
        return self._tensor(spec) if name.head is None else self._head(name, spec)

    def _tensor(self, spec: SiteSpec) -> LazyTensor | RaggedTensor:
        if spec.name not in self.reader.computed:
            check_spec(spec)
        calls_of = {calls: table for table, calls in CALLS_OF.items()}.get(spec.table)
        source = Source(
            reader=self.reader,
            spec=spec,
            url=self.url,
            examples=lambda: self._examples(spec),
            budget_bytes=self._budget_bytes,
            called=None if calls_of is None else lambda: self._all_examples(calls_of),
        )
        return RaggedTensor(source) if spec.layout == RAGGED else LazyTensor(source)

    def _head(self, name: HeadName, spec: SiteSpec) -> LazyTensor | RaggedTensor:
        """Return one head of a site, without its dimension."""
        one = self.reader.computed.get(spec.name)
        place = place_of(self.snapshot, name, spec, stored=None if one is None else one.source)
        x = self._tensor(spec)
        if isinstance(x, RaggedTensor):
            return x[:, place]
        return x[(*(slice(None),) * x.lead_ndim, place)]

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Ask in SQL; see `ActivationCache.sql`."""
        with self._lock:
            if self._connection is None:
                if self._connect is None:
                    raise QueryError("This cache was made without SQL; lc.open(url) has it.")
                self._connection = self._connect(self.snapshot, self.reader, self.store)
            connection = self._connection
        return connection.sql(query, params)

    def close(self) -> None:
        """Drop the file maps and the index; further reads are refused. Loaded tensors stay."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self.reader.close()

    def _examples(self, spec: SiteSpec) -> ExampleMap:
        """Return the examples of a site; sites that cover their whole table share them."""
        # one row per example cannot be left out without moving the others: there, rows that the
        # site lacks stay in the map and are refused when they are read
        if spec.table == EXAMPLES or self.rows(spec.name) == self.snapshot.rows(spec.table):
            return self._all_examples(spec.table)
        return self._kept(f"site {spec.name}", lambda: self._build(spec.table, site=spec.name))

    def _all_examples(self, table: str) -> ExampleMap:
        """Return the examples of a whole table."""
        return self._kept(f"table {table}", lambda: self._build(table, site=None))

    def _kept(self, key: str, build: Callable[[], ExampleMap]) -> ExampleMap:
        known = self._maps.get(key)
        if known is None:
            # built under the lock: threads that ask at once shall not each build it
            with self._lock:
                known = self._maps.get(key)
                if known is None:
                    known = self._maps[key] = build()
        return known

    def _build(self, table: str, *, site: str | None) -> ExampleMap:
        covered = None if site is None else self.reader.covered_spans(site)
        # an example of which no token was kept is in the table of examples all the same
        listed = None if table == EXAMPLES else self.snapshot.extents(EXAMPLES)
        return example_maps.build(self.snapshot.extents(table), covered=covered, listed=listed)
