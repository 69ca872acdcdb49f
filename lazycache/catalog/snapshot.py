"""What a dataset holds at one version: the log replayed. Pure.

Row numbers are settled here. The rows of a table are those of commit 1, then those of commit 2,
and so on; so the row numbers of a snapshot are the same in every later one, until a run is removed:
then the rows behind it move up. A file has rows of one run only.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from lazycache.catalog.column_types import widest
from lazycache.catalog.conflicts import same_array
from lazycache.catalog.entry_records import check_entry, entry_lengths, entry_paths
from lazycache.catalog.extents import Extents, merged_extents
from lazycache.catalog.natural import natural_key
from lazycache.catalog.placing import check_array, check_shard, check_site, check_tiling
from lazycache.catalog.row_spaces import OpenTable, PlacedTable, Table
from lazycache.catalog.statistics_records import check_statistics
from lazycache.errors import CorruptShardError, SiteNotFoundError, nearest
from lazycache.types import (
    ArrayRef,
    Commit,
    Drop,
    EntryRef,
    Identity,
    RunInfo,
    ShardRef,
    SiteSpec,
)

__all__ = ["Addition", "Extents", "PlacedShard", "PlacedTable", "Snapshot"]


@dataclass(frozen=True, slots=True)
class PlacedShard:
    """A shard and where its rows are in its table."""

    ref: ShardRef
    """The shard as its commit names it."""
    row_start: int
    """Its first row, counted from the first row of the table."""
    version: int
    """Version of the commit that names it."""

    @property
    def base(self) -> int:
        """Version of the commit whose first row its own `row_start` counts from."""
        return self.version if self.ref.covers is None else self.ref.covers

    @property
    def row_stop(self) -> int:
        """The row after its last."""
        return self.row_start + self.ref.rows


@dataclass(frozen=True, slots=True)
class Addition:
    """The rows that one commit has added."""

    version: int
    """Its version."""
    run: str
    """The run that they belong to."""
    rows: Mapping[str, tuple[int, int]]
    """Table to the first of them and the row after the last."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The dataset at one version. Made by `replay`; never changes.

    Example:
        >>> identity = Identity(version=1, uuid="u", created="2026-01-01")
        >>> empty = Snapshot.replay(identity, [])
        >>> empty.version, list(empty.sites), empty.rows("tokens")
        (0, [], 0)
    """

    identity: Identity
    """Which dataset."""
    version: int = 0
    """Version of the last commit; 0 before the first."""
    runs: Mapping[str, RunInfo] = field(default_factory=dict)
    """Runs by name, in order of first appearance."""
    sites: Mapping[str, SiteSpec] = field(default_factory=dict)
    """Sites by name, in natural order: `resid_out_2` before `resid_out_10`."""
    commits: tuple[Commit, ...] = ()
    """All commits: commit v is commits[v-1]."""
    entries: Mapping[str, EntryRef] = field(default_factory=dict)
    """Values that were stored beside the sites, by name, in order of first appearance."""
    sealed: frozenset[str] = frozenset()
    """Runs that are complete."""
    expired: int = 0
    """Files that only versions before this one need may be gone."""
    rewritten: int = 0
    """Version of the last commit that replaced files or removed rows; 0: none did."""
    _tables: Mapping[str, Table] = field(default_factory=dict, repr=False)
    _owners: Mapping[str, str] = field(default_factory=dict, repr=False)
    _shards: Mapping[str, tuple[PlacedShard, ...]] = field(default_factory=dict, repr=False)
    _arrays: Mapping[tuple[str, str], ArrayRef] = field(default_factory=dict, repr=False)
    _paths: frozenset[str] = field(default_factory=frozenset, repr=False)

    @staticmethod
    def replay(
        identity: Identity, commits: Iterable[Commit], previous: Snapshot | None = None
    ) -> Snapshot:
        """Return the snapshot after `commits`, which follow on `previous`.

        The same whether commits come at once or bit by bit. Costs time in proportion to the new
        commits only. A run that is declared again keeps its first information.

        Raises:
            CorruptShardError: the commits contradict each other; says which and how.
        """
        replaying = _Replay(previous or Snapshot(identity))
        for commit in commits:
            replaying.add(commit)
        return replaying.result()

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that have rows or sites, in order."""
        names = {site.table for site in self.sites.values()} | self._tables.keys()
        return tuple(sorted(names, key=natural_key))

    def rows(self, table: str) -> int:
        """Rows of a table; 0 if there is no such table."""
        return self._tables.get(table, _EMPTY).rows

    def table_files(self, table: str) -> tuple[PlacedTable, ...]:
        """Files of a table in row order; they follow each other without a hole."""
        return self._tables.get(table, _EMPTY).files

    def shards(self, site: str) -> tuple[PlacedShard, ...]:
        """Shards of a site in row order; there may be holes between them, but no overlap.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        if site not in self.sites:
            raise SiteNotFoundError(f"No site {site!r}. {nearest(site, self.sites)}")
        return self._shards.get(site, ())

    def covered(self, site: str) -> int:
        """Rows that a site has values for.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        return sum(shard.ref.rows for shard in self.shards(site))

    def array(self, run: str, name: str) -> ArrayRef | None:
        """Return a tensor that a run keeps; None if it keeps none of that name."""
        return self._arrays.get((run, name))

    def arrays(self, run: str) -> dict[str, ArrayRef]:
        """Return all tensors that a run keeps, by name, in order of first appearance."""
        return {name: array for (owner, name), array in self._arrays.items() if owner == run}

    def columns(self, table: str) -> dict[str, str]:
        """Columns of all files of a table and their types, in order of first appearance.

        A column whose type differs between files has the type that holds all of its values.
        """
        types: dict[str, str] = {}
        for file in self.table_files(table):
            for name, kind in file.ref.columns.items():
                types[name] = widest(types.get(name, kind), kind)
        return types

    @property
    def additions(self) -> tuple[Addition, ...]:
        """Which rows of the tables each commit has added, in order; those of removed runs not."""
        found: dict[int, tuple[str, dict[str, tuple[int, int]]]] = {}
        for name, table in self._tables.items():
            for version, part in table.parts.items():
                rows = found.setdefault(version, (part.run, {}))[1]
                rows[name] = (part.start, part.start + part.rows)
        return tuple(Addition(version, *found[version]) for version in sorted(found))

    def runs_of(self, site: str) -> set[str]:
        """Return the runs whose rows a site has values for."""
        parts = self._tables.get(self.sites[site].table, _EMPTY).parts
        return {parts[shard.base].run for shard in self.shards(site)}

    def paths(self) -> Iterator[tuple[str, int]]:
        """Yield the files that this snapshot consists of, with their lengths; no log record.

        The file of trees of several entries comes once, with the length that they need.
        """
        for table in self._tables.values():
            yield from ((file.ref.path, file.ref.length) for file in table.files)
        for placed in self._shards.values():
            for ref in (shard.ref for shard in placed):
                yield ref.path, ref.length
                if ref.stats is not None:
                    yield ref.stats.path, ref.stats.length
        yield from ((array.path, array.length) for array in self._arrays.values())
        yield from entry_lengths(self.entries.values())

    def extents(self, table: str) -> Extents:
        """Which example each row of a table belongs to, in row order.

        Computed at each call, in numpy: keep the result. Neighbouring extents of one example are
        one, also where a file or commit ends between them.
        """
        files = self.table_files(table)
        index = {name: i for i, name in enumerate(self.runs)}
        return merged_extents(
            runs=[index[file.run] for file in files],
            examples=[file.ref.examples for file in files],
            lengths=[file.ref.lengths for file in files],
        )


_EMPTY = Table()


class _Replay:
    """A snapshot in the making: copies what it changes of the one before, nothing else."""

    def __init__(self, before: Snapshot) -> None:
        self._before = before
        self._version = before.version
        self._commits: list[Commit] = []
        self._runs = dict(before.runs)
        self._sites = dict(before.sites)
        self._owners = dict(before._owners)  # noqa: SLF001 - a snapshot in the making
        self._sealed = before.sealed
        self._expired, self._rewritten = before.expired, before.rewritten
        self._tables: dict[str, OpenTable] = {}
        self._shards: dict[str, list[PlacedShard]] = {}
        self._arrays = dict(before._arrays)  # noqa: SLF001 - a snapshot in the making
        self._entries = dict(before.entries)
        self._paths = set(before._paths)  # noqa: SLF001 - a snapshot in the making

    def add(self, commit: Commit) -> None:
        """Apply one commit."""
        if commit.version != self._version + 1:
            raise CorruptShardError(
                f"Log record {self._version + 1} is missing: {commit.version} follows."
            )
        self._version = commit.version
        self._commits.append(commit)
        for name in commit.removed:
            self._remove(name)
        for drop in commit.drops:
            self._drop(drop)
        for run in commit.runs:
            self._runs.setdefault(run.name, run)
        for site in commit.sites:
            self._declare(site, run=commit.run)
        if commit.tables:
            self._add_rows(commit)
        for shard in commit.shards:
            self._place(shard)
        for array in commit.arrays:
            self._keep(array, run=commit.run)
        for entry in commit.entries:
            check_entry(entry)
            self._entries[entry.name] = entry
        self._sealed |= set(commit.sealed)
        self._expired = max(self._expired, min(commit.expired, commit.version))
        paths = [file.path for file in commit.tables]
        paths += entry_paths(commit.entries)
        paths += [shard.path for shard in commit.shards]
        paths += [shard.stats.path for shard in commit.shards if shard.stats is not None]
        self._claim(paths + [array.path for array in commit.arrays])

    def _claim(self, paths: Sequence[str]) -> None:
        """Refuse a file that is named twice: its bytes cannot be two things."""
        known = self._paths
        if len(set(paths)) == len(paths) and known.isdisjoint(paths):
            known.update(paths)
            return
        twice = next(path for i, path in enumerate(paths) if path in known or path in paths[:i])
        raise CorruptShardError(f"Commit {self._version} names {twice!r}, which is named before.")

    def _remove(self, run: str) -> None:
        """Take a run away with everything that it owns; rows behind its own move up."""
        self._check_run(run, "removes")
        self._rewritten = self._version
        for name in [one.name for one in self._runs.values() if one.info.get("adds_to") == run]:
            del self._runs[name]
        self._runs.pop(run, None)
        self._sealed -= {run}
        self._arrays = {key: array for key, array in self._arrays.items() if key[0] != run}
        for name in self._before._tables.keys() | self._tables.keys():  # noqa: SLF001
            self._table(name).remove(run)
        for name, site in list(self._sites.items()):
            self._move(site)
            if not self._placed(name) and self._owners.get(name) == run:
                del self._sites[name], self._owners[name]

    def _move(self, site: SiteSpec) -> None:
        """Keep the shards of a site whose rows are still there, where these are now."""
        table = self._table(site.table)
        self._shards[site.name] = [
            replace(shard, row_start=table.parts[shard.base].start + shard.ref.row_start)
            for shard in self._placed(site.name)
            if shard.base in table.parts
        ]

    def _drop(self, drop: Drop) -> None:
        """Take files away whose rows others of the same commit have."""
        self._rewritten, gone = self._version, set(drop.paths)
        if drop.table is not None:
            missing = gone - self._table(drop.table).drop(gone)
        else:
            placed = self._placed(str(drop.site))
            missing = gone - {shard.ref.path for shard in placed}
            placed[:] = [shard for shard in placed if shard.ref.path not in gone]
        if missing:
            raise CorruptShardError(
                f"Commit {self._version} replaces {min(missing)!r}, which is not there to replace."
            )

    def _placed(self, site: str) -> list[PlacedShard]:
        """Return the shards of a site, to be changed."""
        if site not in self._shards:
            self._shards[site] = list(self._before._shards.get(site, ()))  # noqa: SLF001
        return self._shards[site]

    def _declare(self, site: SiteSpec, *, run: str) -> None:
        known = self._sites.get(site.name)
        if known is None:
            check_site(site)
            self._sites[site.name] = site
            self._owners[site.name] = run
        elif known != site:
            raise CorruptShardError(
                f"Commit {self._version} declares site {site.name!r} as {site}; it is {known}."
            )

    def _add_rows(self, commit: Commit) -> None:
        new = [file for file in commit.tables if file.covers is None]
        if new:
            self._check_run(commit.run, "adds rows to")
        for table in dict.fromkeys(file.table for file in new):
            files = [file for file in new if file.table == table]
            files.sort(key=lambda file: (file.row_start, file.rows))
            target = self._table(table)
            check_tiling(files, base=target.rows)
            target.extend(files, run=commit.run, version=commit.version)
        for file in commit.tables:
            if file.covers is not None:
                self._table(file.table).replace(file, version=commit.version)
        for name in {file.table for file in commit.tables if file.covers is not None}:
            self._table(name).check_whole()

    def _check_run(self, run: str, what: str) -> None:
        if run not in self._runs:
            raise CorruptShardError(
                f"Commit {self._version} {what} run {run!r}, which nobody declared."
            )

    def _keep(self, array: ArrayRef, *, run: str) -> None:
        """Keep the first array of a name; two writers of a run may both have written it."""
        self._check_run(run, "adds an array to")
        check_array(array)
        known = self._arrays.get((run, array.name))
        if known is None:
            self._arrays[run, array.name] = array
        elif not same_array(known, array):
            raise CorruptShardError(
                f"Commit {self._version} gives run {run!r} the array {array.name!r} of "
                f"{array.dtype} and shape {array.shape}; it has another one of that name."
            )

    def _table(self, name: str) -> OpenTable:
        if name not in self._tables:
            self._tables[name] = OpenTable(self._before._tables.get(name, _EMPTY))  # noqa: SLF001
        return self._tables[name]

    def _place(self, shard: ShardRef) -> None:
        site = self._sites.get(shard.site)
        if site is None:
            raise CorruptShardError(f"{shard.path!r} is of site {shard.site!r}: nobody declared it")
        check_shard(shard, site)
        check_statistics(shard, site)
        version = self._version if shard.covers is None else shard.covers
        start = self._table(site.table).start_of(shard, version)
        if shard.rows:
            self._insert(PlacedShard(shard, start, self._version))

    def _insert(self, shard: PlacedShard) -> None:
        """Keep the shards of a site in row order; nearly always the new one is the last."""
        name = shard.ref.site
        placed = self._placed(name)
        at = len(placed)
        if placed and placed[-1].row_start > shard.row_start:
            at = bisect(placed, shard.row_start, key=attrgetter("row_start"))
        for other in placed[max(0, at - 1) : at + 1]:
            if other.row_start < shard.row_stop and shard.row_start < other.row_stop:
                raise CorruptShardError(
                    f"{shard.ref.path!r} and {other.ref.path!r} cover the same rows of {name!r}."
                )
        placed.insert(at, shard)

    def result(self) -> Snapshot:
        """Return the snapshot after what was added."""
        before = self._before
        if not self._commits:
            return before
        names = sorted(self._sites, key=natural_key)
        return Snapshot(
            identity=before.identity,
            version=self._version,
            runs=self._runs,
            sites={name: self._sites[name] for name in names},
            commits=(*before.commits, *self._commits),
            entries=self._entries,
            sealed=self._sealed,
            expired=self._expired,
            rewritten=self._rewritten,
            _owners=self._owners,
            _tables={**before._tables, **{k: v.closed() for k, v in self._tables.items()}},  # noqa: SLF001
            _shards={**before._shards, **{k: tuple(v) for k, v in self._shards.items()}},  # noqa: SLF001
            _arrays=self._arrays,
            _paths=frozenset(self._paths),
        )
