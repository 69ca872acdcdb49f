"""A thread that writes some of the sites and tables, in the order of the feed."""

from __future__ import annotations

import threading
from contextlib import suppress

from lazycache.errors import StorageError
from lazycache.storage.store import Store
from lazycache.types import SiteSpec
from lazycache.writer.feed import Feed
from lazycache.writer.jobs import Batch, Flush, Job, Load, Mark, Stop
from lazycache.writer.parts import Part, SitePart
from lazycache.writer.settings import Settings
from lazycache.writer.site_lane import SiteLane
from lazycache.writer.table_lane import TableLane
from lazycache.writer.transaction import Files, Transaction

_OPEN_FILES = 64  # per worker: far below the 1,024 that a process may usually have


class Worker:
    """Owns its lanes; nobody else touches them while its thread runs."""

    def __init__(self, number: int, *, feed: Feed, store: Store, settings: Settings) -> None:
        self._number = number
        self._feed = feed
        self._store = store
        self._settings = settings
        self._sites: dict[tuple[str, int | None], SiteLane] = {}  # by name and what they cover
        self._tables: dict[str, TableLane] = {}
        self._rows: dict[str, int] = {}  # of each table in this transaction, before this batch
        self._files = Files()  # of this transaction, finished
        self._handed_over: list[tuple[Transaction, Files]] = []
        # a daemon: a process that ends on an exception must not wait for a slow store
        name = f"lazycache-writer-{number}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        while self._thread.is_alive():
            self._thread.join(1.0)  # in steps: some platforms cannot interrupt an endless one

    def delete_leftovers(self) -> None:
        """Delete the files that no log record can name. The thread has ended."""
        self._files.shards += [ref for lane in self._sites.values() for ref in lane.take()]
        self._files.tables += [ref for lane in self._tables.values() for ref in lane.take()]
        unnamed = [files for transaction, files in self._handed_over if not transaction.attempted]
        for path in (path for files in (self._files, *unnamed) for path in files.paths):
            with suppress(StorageError):  # invisible all the same; there is an error to tell first
                self._store.delete(path)

    def _run(self) -> None:
        try:
            self._walk(self._feed.root)
        except BaseException as error:  # noqa: BLE001 - a thread carries any error to its callers
            self._feed.fail(error)
        finally:
            self._abort()

    def _walk(self, job: Job) -> None:
        while (after := self._feed.follow(job, reader=self._number)) is not None:
            job = after
            if isinstance(job, Batch):
                self._batch(job.load)
            elif isinstance(job, Flush):
                self._flush(job.need)
            elif isinstance(job, Mark):
                self._mark(job)
            elif isinstance(job, Stop):
                return

    def _batch(self, load: Load) -> None:
        parts = load.parts.get(self._number, [])
        while parts:  # taken out one by one: what is written is not kept alive by the rest
            self._take(parts.pop(), sites=load.sites)
        for table, rows in load.table_rows.items():
            self._rows[table] = self._rows.get(table, 0) + rows

    def _take(self, part: Part, *, sites: int) -> None:
        if isinstance(part, SitePart):
            place = part.place
            row_start = self._rows.get(part.table, 0) if place is None else place.row_start
            lane = self._site_lane(part.spec, None if place is None else place.covers)
            lane.add(part, row_start=row_start, sites=sites)
            self._bound_open_files()
        else:
            self._table_lane(part.table).add(part)

    def _flush(self, need: int) -> None:
        for lane in sorted(self._lanes(), key=lambda lane: -lane.held):
            if self._feed.has_room(need):
                return
            lane.flush()

    def _mark(self, mark: Mark) -> None:
        # those with an open file first, so that no more are open than may be
        lanes = sorted(self._sites.values(), key=lambda lane: not lane.length)
        for first in range(0, len(lanes), _OPEN_FILES):
            some = lanes[first : first + _OPEN_FILES]
            for site in some:  # all of them, so that the disk writes while others are computed
                site.flush()
            for site in some:
                self._files.shards += site.finish()
        self._sites = {key: lane for key, lane in self._sites.items() if key[1] is None}
        for table in self._tables.values():
            self._files.tables += table.finish()
        self._rows.clear()
        self._hand_over(mark.transaction)

    def _hand_over(self, transaction: Transaction) -> None:
        files, self._files = self._files, Files()
        self._handed_over = [pair for pair in self._handed_over if not pair[0].attempted]
        self._handed_over.append((transaction, files))
        self._feed.hand_over(transaction, files)

    def _lanes(self) -> list[SiteLane | TableLane]:
        return [*self._sites.values(), *self._tables.values()]

    def _site_lane(self, spec: SiteSpec, covers: int | None) -> SiteLane:
        key = spec.name, covers
        if key not in self._sites:
            self._sites[key] = SiteLane(
                spec,
                store=self._store,
                settings=self._settings,
                free=self._feed.free,
                covers=covers,
            )
        return self._sites[key]

    def _table_lane(self, table: str) -> TableLane:
        if table not in self._tables:
            self._tables[table] = TableLane(
                table, store=self._store, settings=self._settings, free=self._feed.free
            )
        return self._tables[table]

    def _bound_open_files(self) -> None:
        lanes = [lane for lane in self._sites.values() if lane.length]
        if len(lanes) > _OPEN_FILES:
            # the longest: rolling the oldest would end every file after its first chunk
            max(lanes, key=lambda lane: lane.length).roll()

    def _abort(self) -> None:
        for lane in self._lanes():
            with suppress(StorageError):  # the error that led here is told instead
                lane.abort()
