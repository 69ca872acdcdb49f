"""The sites of one dataset at one version, by name: what an `ActivationCache` reads from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from lazycache.cache.dataset.connection import Connect, Connection, connected
from lazycache.cache.dataset.entries import Entries
from lazycache.cache.dataset.site_examples import SiteExamples
from lazycache.cache.dataset.site_tensors import SiteTensors, has_token_ids
from lazycache.cache.names.name_lookup import Names
from lazycache.cache.reading.address import Address, EntriesAddress
from lazycache.cache.reading.row_reader import RowReader
from lazycache.cache.reading.site_reader import SiteReader
from lazycache.cache.selecting import spans
from lazycache.cache.selecting.examples import ExampleMap
from lazycache.cache.tables.conditions import Params
from lazycache.cache.tables.restriction import Restriction
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.catalog.computed import all_sites
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import StorageError
from lazycache.storage.known_files import known_files
from lazycache.storage.store import Store
from lazycache.types import IoCounters, SiteSpec

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
        location: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = store
        """Where the bytes are."""
        self.snapshot = snapshot
        """What there is, at which version."""
        self.io = IoCounters() if io is None else io
        """What was read since it was opened, or since `io.reset()`."""
        self.files = known_files(
            store, uuid=snapshot.identity.uuid, storage_options=storage_options
        )
        """Gives ranges of its files, from the block cache of this machine where that is nearer."""
        self.reader = SiteReader(store, snapshot, io=self.io, check=check, files=self.files)
        """Reads absolute rows; SQL reads through it too."""
        self.address = Address(
            location or store.url,
            snapshot.identity.uuid,
            snapshot.version,
            check=check,
            budget_bytes=budget_bytes,
            storage_options=storage_options,
        )
        """Where another process opens the same sites; what pickles of them hold."""
        self._closed = False
        self._entries: Entries | None = None
        self._sites = all_sites(snapshot)
        self._budget_bytes = budget_bytes
        self._connect = connect
        self._connection: Connection | None = None
        self._examples = SiteExamples(snapshot, self.reader)
        self._lock = threading.Lock()
        self.restriction: Restriction | None = None
        """Which rows of each table are left; None: all."""
        self._whole: StoredSites | None = None
        self._closes_whole = True

    @property
    def closed(self) -> bool:
        """Whether reads are refused."""
        return self._closed or (self._whole is not None and self._whole.closed)

    def _check_open(self) -> None:
        if self.closed:
            raise StorageError(f"{self.url} was closed: open it again to read.")

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

    @property
    def entries(self) -> Entries:
        """The values that were stored beside the sites."""
        self._check_open()
        with self._lock:
            if self._entries is None:
                self._entries = Entries(
                    self.store,
                    self.snapshot.entries,
                    files=self.files,
                    io=self.io,
                    check=self.address.check,
                    budget_bytes=self._budget_bytes,
                    reopen=EntriesAddress(self.address),
                )
            return self._entries

    def showing(self, snapshot: Snapshot, *, io: IoCounters) -> StoredSites:
        """Return the sites of another snapshot of the same dataset, opened and restricted alike."""
        found = StoredSites(
            self.store,
            snapshot,
            io=io,
            check=self.address.check,
            budget_bytes=self._budget_bytes,
            connect=self._connect,
            location=self.address.url,
            storage_options=self.address.storage_options,
        )
        for condition, params in self.address.where:
            found = found.where(condition, params, closing=True)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        # by address: no value is pickled, the dataset is opened where it is unpickled
        return self.address, ()

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
        if self.restriction is None:
            return self._examples.covered_rows(site)
        table = self._sites[site].table
        kept = self.restriction.rows(table)
        if self._examples.covered_rows(site) == self.snapshot.rows(table):
            return kept.count
        return (kept & spans.of_ranges(*self.reader.covered_spans(site))).count

    @property
    def names(self) -> Names:
        """What keys can mean here."""
        infos = tuple(run.info for run in self.snapshot.runs.values())
        return Names(self._sites, self.url, infos)

    @property
    def whole(self) -> StoredSites:
        """The same sites with all their rows: itself, unless a condition chose some."""
        found = self
        while found._whole is not None:
            found = found._whole
        return found

    def examples_of(self, table: str) -> ExampleMap:
        """Return which rows of a table each example has, of all rows that are here.

        Cost: reads nothing; built once.
        """
        return self._examples.of_table(table)

    def tensor(self, site: object) -> LazyTensor | RaggedTensor:
        """Return a site, or a head of one, as a lazy tensor. Reads nothing.

        Args:
            site: Its name, or another that `name_lookup.resolve` knows: `("resid_post", 3)`.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        return SiteTensors(self, self._examples, self._budget_bytes).named(site)

    def has_token_ids(self, name: object) -> bool:
        """Whether `name` is that of the ids of the tokens, and these were stored."""
        return has_token_ids(self, name)

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> Any:
        """Ask in SQL; see `ActivationCache.sql`."""
        self._check_open()
        with self._lock:
            if self._connection is None:
                self._connection = connected(self, self._connect, self.reader)
            connection = self._connection
        return connection.sql(query, params, tables=tables)

    def connected(self, reader: RowReader, statistics: Callable[[str], Any]) -> Connection:
        """Return what answers SQL over these rows with the values of another reader.

        The caller closes it. `statistics` gives what the table of that name shows.

        Raises:
            QueryError: the cache was made without SQL.
        """
        self._check_open()
        return connected(self, self._connect, reader, statistics)

    def apart(self) -> StoredSites:
        """Return the same without what answers SQL, which may hold it: nothing holds itself then.

        Reads through the same reader; is closed with it.

        Raises:
            StorageError: it was closed.
        """
        self._check_open()
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        found._connection, found._entries = None, None
        found._lock = threading.Lock()
        return found

    def restriction_by(
        self, condition: str, params: Params = None, *, table: str | None = None
    ) -> Restriction:
        """Return the rows that a condition keeps of those that are here; see `where`.

        A condition on rows is one on those of `table`, if it has the columns.
        """
        return Restriction(self, condition, params, before=self.restriction, table=table)

    def where(self, condition: str, params: Params = None, *, closing: bool = False) -> StoredSites:
        """Return the sites of the rows that a condition keeps; see `ActivationCache.where`.

        They read through this one's reader; closing them does not close it, unless `closing`.

        Raises:
            QueryError: no such column, names the nearest; or not one expression.
        """
        params = copy(params)  # what the caller does to them later comes too late
        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        found.restriction = self.restriction_by(condition, params)
        found.address = replace(self.address, where=(*self.address.where, (condition, params)))
        found._connection, found._entries = None, None
        found._examples = SiteExamples(found.snapshot, found.reader, found.restriction)
        found._lock, found._whole, found._closes_whole = threading.Lock(), self, closing
        return found

    def close(self) -> None:
        """Drop the file maps and the index; further reads are refused. Loaded tensors stay."""
        with self._lock:
            self._closed = True
            connection, self._connection = self._connection, None
            entries, self._entries = self._entries, None
        if connection is not None:
            connection.close()
        if entries is not None:
            entries.close()
        if self._whole is None:
            self.reader.close()
        elif self._closes_whole:
            self._whole.close()
