"""The sites of a dataset at one version, as a mapping from name to lazy tensor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

from lazycache.cache import examples as example_maps
from lazycache.cache.examples import ExampleMap
from lazycache.cache.lazy_tensor import LazyTensor
from lazycache.cache.plan import check_spec
from lazycache.cache.reader import Reader
from lazycache.cache.source import Source, not_pickled
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import QueryError, SiteNotFoundError, nearest
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, IoCounters, SiteSpec


class Connection(Protocol):
    """What answers SQL over a snapshot: `lazycache.query.sql.Connection`."""

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """Return the result of one query."""
        ...

    def close(self) -> None:
        """Release the index."""
        ...


Connect = Callable[[Snapshot, Reader, Store], Connection]
"""Makes one; given by the front door, since queries are a stage above this one."""

BUDGET_BYTES = 4 << 30
"""Default of what a torch function or `np.asarray` may load."""


class ActivationCache(Mapping[str, LazyTensor]):
    """The sites of a dataset, read lazily: `cache["resid_out_0"][3, :10].load()`.

    Keys are site names in natural order (`resid_out_2` before `resid_out_10`). Opening and looking
    up read nothing; `io` counts what is read later. Shows one snapshot: later commits do not change
    it. May be shared between threads. Close it, or use it as a context manager, to drop the file
    maps early; tensors that were loaded stay valid.

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
        self.reader = Reader(store, snapshot, io=self.io, check=check)
        """Reads absolute rows; SQL reads through it too."""
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
        """What a row of each site is, by name."""
        return self.snapshot.sites

    def __getitem__(self, site: str) -> LazyTensor:
        spec = self.snapshot.sites.get(site)
        if spec is None:
            there = nearest(str(site), self.snapshot.sites)
            raise SiteNotFoundError(f"there is no site {site!r} in {self.url}. {there}")
        check_spec(spec)
        return LazyTensor(
            Source(
                reader=self.reader,
                spec=spec,
                url=self.url,
                examples=lambda: self._examples(spec),
                budget_bytes=self._budget_bytes,
            )
        )

    # a mapping compares its values, which here would be reading them all
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_pickled(self, f"lc.open({self.url!r})")

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot.sites)

    def __len__(self) -> int:
        return len(self.snapshot.sites)

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
        `chunks`, `commits`, `runs`. `unit(site, i)` is one unit of a row, 0-based.

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
        whole = spec.table == EXAMPLES or (
            self.snapshot.covered(spec.name) == self.snapshot.rows(spec.table)
        )
        key = f"table {spec.table}" if whole else f"site {spec.name}"
        known = self._maps.get(key)
        if known is None:
            # built under the lock: threads that ask at once shall not each build it
            with self._lock:
                known = self._maps.get(key)
                if known is None:
                    known = self._maps[key] = self._build(spec, whole=whole)
        return known

    def _build(self, spec: SiteSpec, *, whole: bool) -> ExampleMap:
        covered = None if whole else self.reader.plan(spec.name).covered_spans()
        # an example of which no token was kept is in the table of examples all the same
        listed = None if spec.table == EXAMPLES else self.snapshot.extents(EXAMPLES)
        rows = self.snapshot.extents(spec.table)
        return example_maps.build(rows, covered=covered, listed=listed)
