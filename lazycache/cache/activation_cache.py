"""The sites of a dataset at one version, as a mapping from name to lazy tensor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

from lazycache.cache import examples as example_maps
from lazycache.cache.examples import ExampleMap
from lazycache.cache.head_names import HeadName, parse
from lazycache.cache.heads import place_of
from lazycache.cache.lazy_tensor import LazyTensor
from lazycache.cache.plan_checks import check_spec
from lazycache.cache.ragged_tensor import RaggedTensor
from lazycache.cache.site_reader import SiteReader
from lazycache.cache.source import Source, not_pickled
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


class ActivationCache(Mapping[str, Any]):
    """The sites of a dataset, read lazily: `cache["resid_out_0"][3, :10].load()`.

    Keys are site names in natural order (`resid_out_2` before `resid_out_10`), of what is stored
    and of what is computed from it (`head_out_3`, where `z_3` was captured with its projection).
    Other names mean parts of these: `cache["z_L1H3"]` is head 3 of `z_1`; a head of `keys` or
    `values` is that of its group. Values are lazy: `LazyTensor`, of attention patterns
    `RaggedTensor`.

    Opening and looking up read nothing; `io` counts what is read later. Shows one snapshot: later
    commits do not change it. May be shared between threads. Close it, or use it as a context
    manager, to drop the file maps early; tensors that were loaded stay valid.

    Example:
        >>> from lazycache.samples import small_cache
        >>> cache = small_cache()
        >>> cache
        ActivationCache(`resid_out_0`)
        >>> cache["resid_out_0"].shape
        torch.Size([3, 3, 2])
        >>> cache.io.bytes
        0
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

    def __getitem__(self, site: str) -> LazyTensor | RaggedTensor:
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

    # a mapping compares its values, which here would be reading them all
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_pickled(self, f"lc.open({self.url!r})")

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"ActivationCache({', '.join(f'`{site}`' for site in self)})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Ask in SQL; see `lazycache.query`.

        Tables are `tokens` and `examples`, with every site as a lazy column, and `sites`, `shards`,
        `chunks`, `commits`, `runs`; where the dataset has such rows also `decoder_tokens` and the
        tables of calls, `calls`, `example_calls`, `decoder_calls`. `unit(site, i)` is one unit of a
        row, 0-based. Attention patterns are no columns: read `cache["pattern_3"]`.

        Args:
            query: A statement that reads.
            params: Values for `?` or `$1` (a sequence) or `$name` (a mapping).

        Returns:
            The result: `.fetchall() .fetchone() .df() .arrow() .pl() .show()`.

        Raises:
            QueryError: it cannot be answered; names the nearest columns and tables.
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
