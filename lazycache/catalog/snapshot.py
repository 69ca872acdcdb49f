"""What a dataset holds at one version: the log replayed. Pure.

Row numbers are settled here. The rows of a table are those of commit 1, then those of commit 2,
and so on; so the row numbers of a snapshot are the same in every later one, until a run is removed:
then the rows behind it move up. A file has rows of one run only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lazycache.catalog.chains import Chain, CommitLine
from lazycache.catalog.column_types import widest
from lazycache.catalog.commit_list import CommitList, lines_after
from lazycache.catalog.entry_records import entry_lengths
from lazycache.catalog.extents import Extents, merged_extents
from lazycache.catalog.natural import natural_key
from lazycache.catalog.row_spaces import PlacedTable, Table
from lazycache.catalog.site_shards import PlacedShard
from lazycache.errors import SelectionError, SiteNotFoundError, nearest
from lazycache.types import ArrayRef, Commit, EntryRef, Identity, RunInfo, SiteSpec

__all__ = ["Addition", "CommitLine", "Extents", "PlacedShard", "PlacedTable", "Snapshot"]


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
    commits: Sequence[Commit] = ()
    """All commits: commit v is commits[v-1]. What packs hold is read from its records when it is
    asked for: `lines` says what most want to know for less."""
    entries: Mapping[str, EntryRef] = field(default_factory=dict)
    """Values that were stored beside the sites, by name, in order of first appearance."""
    sealed: frozenset[str] = frozenset()
    """Runs that are complete."""
    expired: int = 0
    """Files that only versions before this one need may be gone."""
    rewritten: int = 0
    """Version of the last commit that replaced files or removed rows; 0: none did."""
    _tables: Mapping[str, Table] = field(default_factory=dict, repr=False)
    _owners: Mapping[str, tuple[str, int]] = field(default_factory=dict, repr=False)
    _shards: Mapping[str, Chain[PlacedShard]] = field(default_factory=dict, repr=False)
    _arrays: Mapping[tuple[str, str], ArrayRef] = field(default_factory=dict, repr=False)
    _array_versions: Mapping[str, int] = field(default_factory=dict, repr=False)
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
        from lazycache.catalog.replaying import Replay

        replaying = Replay(previous or Snapshot(identity))
        for commit in commits:
            replaying.add(commit)
        return replaying.result()

    def at(self, version: int) -> Snapshot:
        """Return what the dataset held at an earlier version; reads nothing.

        Raises:
            SelectionError: no such version, or files that it needs may be gone.
        """
        from lazycache.catalog.packed_replaying import replay_packed

        if not 0 <= version <= self.version:
            raise SelectionError(
                f"There is no snapshot {version}: the versions are 0 to {self.version}."
            )
        if version == self.version:
            return self
        commits, before = self.commits, Snapshot(self.identity)
        if isinstance(commits, CommitList):
            before = replay_packed(self.identity, commits.until(version))
            commits = commits.tail
        later = [commit for commit in commits if commit.version <= version]
        return Snapshot.replay(self.identity, later, before)

    def lines(self, after: int = 0) -> list[CommitLine]:
        """Return what the commits after a version were, in short.

        Costs one read for each pack of the log, and none of its records.
        """
        return lines_after(self.commits, after)

    def declared(self) -> list[tuple[int, str]]:
        """Return the sites and arrays that were ever declared first, with that version, in order.

        Sites of removed runs are not there.
        """
        found = [(version, name) for name, (_, version) in self._owners.items()]
        found += [(version, name) for name, version in self._array_versions.items()]
        return sorted(found, key=lambda one: one[0])

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
        return self._tables.get(table, _EMPTY).chain.files()

    def shards(self, site: str) -> tuple[PlacedShard, ...]:
        """Shards of a site in row order; there may be holes between them, but no overlap.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        if site not in self.sites:
            raise SiteNotFoundError(f"No site {site!r}. {nearest(site, self.sites)}")
        chain = self._shards.get(site)
        return () if chain is None else chain.files()

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
        return {parts.owner(shard.base) for shard in self.shards(site)}

    def paths(self) -> Iterator[tuple[str, int]]:
        """Yield the files that this snapshot consists of, with their lengths; no log record.

        The file of trees of several entries comes once, with the length that they need.
        """
        for table in self._tables.values():
            yield from ((file.ref.path, file.ref.length) for file in table.chain.files())
        for chain in self._shards.values():
            for ref in (shard.ref for shard in chain.files()):
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
