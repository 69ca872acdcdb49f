"""The sites of a dataset at one version, as a mapping from name to lazy tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self

from lazycache.cache.lazy_tensor import LazyTensor
from lazycache.cache.ragged_tensor import RaggedTensor
from lazycache.cache.site_reader import SiteReader
from lazycache.cache.source import not_pickled
from lazycache.cache.stored_sites import StoredSites
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.store import Store
from lazycache.types import IoCounters, SiteSpec


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

    def __init__(self, stored: StoredSites) -> None:
        self.stored = stored
        """The dataset behind it."""

    @property
    def store(self) -> Store:
        """Where the bytes are."""
        return self.stored.store

    @property
    def snapshot(self) -> Snapshot:
        """What there is, at which version."""
        return self.stored.snapshot

    @property
    def io(self) -> IoCounters:
        """What was read since it was opened, or since `io.reset()`."""
        return self.stored.io

    @property
    def reader(self) -> SiteReader:
        """Reads absolute rows; SQL reads through it too."""
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

    def stored_bytes(self, site: str) -> int:
        """Return the bytes of a site's values in the dataset; 0 of one that is computed.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        return self.stored.stored_bytes(site)

    def rows(self, site: str) -> int:
        """Return how many rows a site has values for.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        return self.stored.rows(site)

    def __getitem__(self, site: str) -> LazyTensor | RaggedTensor:
        return self.stored.tensor(site)

    # a mapping compares its values, which here would be reading them all
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_pickled(self, f"lc.open({self.url!r})")

    def __iter__(self) -> Iterator[str]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

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
        return self.stored.sql(query, params)

    def close(self) -> None:
        """Drop the file maps and the index; further reads are refused. Loaded tensors stay."""
        self.stored.close()
