"""Which rows each example has, of the tables and sites of one snapshot; each map is built once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from lazycache.cache.selecting import examples as example_maps
from lazycache.cache.selecting.examples import ExampleMap
from lazycache.types import EXAMPLES, SiteSpec

if TYPE_CHECKING:
    from lazycache.cache.reading.site_reader import SiteReader
    from lazycache.cache.tables.restriction import Restriction
    from lazycache.catalog.snapshot import Snapshot


class SiteExamples:
    """Example maps of one snapshot, of all its rows or of those that a condition left.

    Reads nothing: the log says which rows there are. May be shared between threads.
    """

    def __init__(
        self, snapshot: Snapshot, reader: SiteReader, restriction: Restriction | None = None
    ) -> None:
        self._snapshot = snapshot
        self._reader = reader
        self._restriction = restriction
        self._maps: dict[str, ExampleMap] = {}
        self._lock = threading.Lock()

    def covered_rows(self, site: str) -> int:
        """Return how many rows a site has values for, whatever was restricted."""
        one = self._reader.computed.get(site)
        return self._snapshot.covered(site) if one is None else one.rows

    def of_table(self, table: str) -> ExampleMap:
        """Return the examples of a whole table."""
        return self._kept(f"table {table}", lambda: self._build(table, site=None))

    def of_site(self, spec: SiteSpec) -> ExampleMap:
        """Return the examples of a site; sites that cover their whole table share them."""
        # one row per example cannot be left out without moving the others: there, rows that the
        # site lacks stay in the map and are refused when they are read
        covered = self.covered_rows(spec.name)
        if spec.table == EXAMPLES or covered == self._snapshot.rows(spec.table):
            return self.of_table(spec.table)
        return self._kept(f"site {spec.name}", lambda: self._build(spec.table, site=spec.name))

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
        covered = None if site is None else self._reader.covered_spans(site)
        if self._restriction is not None:
            return self._restriction.map(table, covered)
        # an example of which no token was kept is in the table of examples all the same
        listed = None if table == EXAMPLES else self._snapshot.extents(EXAMPLES)
        return example_maps.build(self._snapshot.extents(table), covered=covered, listed=listed)
