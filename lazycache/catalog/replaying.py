"""The replay of the log: commits, or packs of them, one after the other onto a snapshot. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from lazycache.catalog.chains import Chain, Key, OpenChain, Segment
from lazycache.catalog.commit_list import CommitList
from lazycache.catalog.conflicts import same_array
from lazycache.catalog.entry_records import check_entry, entry_paths
from lazycache.catalog.natural import natural_key
from lazycache.catalog.placing import MOST_ROWS, check_array, check_site, check_tiling
from lazycache.catalog.row_spaces import OpenTable, Table
from lazycache.catalog.site_shards import PlacedShard, checked, insert, packed_shards
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError
from lazycache.types import ArrayRef, Commit, Drop, ShardRef, SiteSpec

_NO_ROWS = Table()
_NO_SHARDS: Chain[PlacedShard] = Chain()


class Replay:
    """A snapshot in the making: copies what it changes of the one before, nothing else.

    Packs come before everything else: what they name is looked at when it is asked for.
    """

    def __init__(self, before: Snapshot) -> None:
        self._before = before
        self._version = before.version
        self._commits: list[Commit | Segment] = []
        self._runs = dict(before.runs)
        self._sites = dict(before.sites)
        self._owners = dict(before._owners)  # noqa: SLF001 - a snapshot in the making
        self._sealed = before.sealed
        self._expired, self._rewritten = before.expired, before.rewritten
        self._tables: dict[str, OpenTable] = {}
        self._shards: dict[str, OpenChain[PlacedShard]] = {}
        self._segments: dict[Key, list[Segment]] = {}  # while packs are added
        self._arrays = dict(before._arrays)  # noqa: SLF001 - a snapshot in the making
        self._array_versions = dict(before._array_versions)  # noqa: SLF001 - likewise
        self._entries = dict(before.entries)
        self._paths = set(before._paths)  # noqa: SLF001 - a snapshot in the making

    def add(self, commit: Commit) -> None:
        """Apply one commit."""
        self._settle()
        self._follow(commit.version)
        self._commits.append(commit)
        for name in commit.removed:
            self._remove(name)
        for drop in commit.drops:
            self._drop(drop)
        self._introduce(commit)
        if commit.tables:
            self._add_rows(commit)
        for shard in commit.shards:
            self._place(shard)
        self._note(commit)
        self._claim(_paths(commit))

    def _follow(self, version: int) -> None:
        if version != self._version + 1:
            raise CorruptShardError(
                f"Log record {self._version + 1} is missing: {version} follows."
            )
        self._version = version

    def _introduce(self, commit: Commit) -> None:
        for run in commit.runs:
            self._runs.setdefault(run.name, run)
        for site in commit.sites:
            self._declare(site, run=commit.run)

    def _note(self, commit: Commit) -> None:
        """Apply what a commit says of anything but rows."""
        for array in commit.arrays:
            self._keep(array, run=commit.run)
        for entry in commit.entries:
            check_entry(entry)
            self._entries[entry.name] = entry
        self._sealed |= set(commit.sealed)
        self._expired = max(self._expired, min(commit.expired, commit.version))

    def _claim(self, paths: Sequence[str]) -> None:
        """Refuse a file that is named twice: its bytes cannot be two things."""
        known = self._paths
        if len(set(paths)) == len(paths) and known.isdisjoint(paths):
            known.update(paths)
            return
        twice = next(path for i, path in enumerate(paths) if path in known or path in paths[:i])
        raise CorruptShardError(f"Commit {self._version} names {twice!r}, which is named before.")

    def add_packed(self, segment: Segment) -> None:
        """Apply commits of a pack. Costs time for their rows and notes, none for their files."""
        assert self._only_packs(), "packs come first"
        source, first = segment.source, segment.first
        self._follow(first)
        rows = {table: columns for table, *columns in source.rows()}
        for note in source.notes():
            if first <= note.version <= segment.last:
                self._extend(rows, first, note.version)
                first = note.version
                self._version = first
                for name in note.removed:
                    self._remove_packed(name, segment)
                self._introduce(note)
                self._extend(rows, first, first + 1)
                self._note(note)
                first += 1
        self._extend(rows, first, segment.last + 1)
        self._version = segment.last
        self._commits.append(segment)
        self._rest_on(segment)
        rewrites = [at for at in source.rewrites() if segment.first <= at <= segment.last]
        self._rewritten = max([self._rewritten, *rewrites])

    def _only_packs(self) -> bool:
        before = self._before
        return not before.version and all(isinstance(one, Segment) for one in self._commits)

    def _extend(self, rows: dict[str, list[Sequence[object]]], first: int, stop: int) -> None:
        """Add the rows of the commits from `first` to before `stop`."""
        for table, columns in rows.items():
            versions: Sequence[int] = columns[0]  # type: ignore[assignment]
            a, b = bisect_left(versions, first), bisect_left(versions, stop)
            if a == b:
                continue
            counts: Sequence[int] = columns[1][a:b]  # type: ignore[assignment]
            runs: Sequence[str] = columns[2][a:b]  # type: ignore[assignment]
            self._version = stop - 1
            for run in dict.fromkeys(runs):
                self._check_run(run, "adds rows to")
            target = self._table(table)
            target.parts.extend(versions[a:b], counts, runs)
            if target.rows > MOST_ROWS:
                raise CorruptShardError(f"Table {table!r} would have {target.rows} rows.")

    def _rest_on(self, segment: Segment) -> None:
        """Let the files of a pack be those of their sites and tables."""
        whole = segment.last == segment.source.last
        for kind, name in segment.source.keys:
            mine = self._segments.setdefault((kind, name), [])
            if kind == "table" and name in self._tables:
                mine.append(segment)
            elif kind == "site" and name in self._sites:
                mine.append(replace(segment, first=max(segment.first, self._owners[name][1])))
            elif whole and not (kind == "site" and self._rewritten):
                raise CorruptShardError(f"A pack has files of {kind} {name!r}: nobody declared it.")

    def _remove_packed(self, run: str, segment: Segment) -> None:
        """Take a run away; which of its sites have other rows is what their files say."""
        self._forget(run)
        for name in self._tables:
            self._table(name).parts.remove(run, version=self._version)
        for name, site in list(self._sites.items()):
            owner, declared = self._owners[name]
            if owner != run:
                continue
            until = replace(segment, first=max(segment.first, declared), last=self._version - 1)
            segments = [*self._segments.get(("site", name), []), until]
            files = packed_shards(site, segments, parts=self._table(site.table).parts.copy())
            if not files.files():
                del self._sites[name], self._owners[name]
                self._segments.pop(("site", name), None)

    def _settle(self) -> None:
        """Have sites and tables stand on the packs, once all of these are known."""
        segments, self._segments = self._segments, {}
        for (kind, name), mine in segments.items():
            if kind == "table" and mine:
                self._table(name).rest_on(name, mine)
            elif mine:
                site = self._sites[name]
                parts = self._table(site.table).parts.copy()
                chain: OpenChain[PlacedShard] = OpenChain(_NO_SHARDS)
                chain.rest_on(packed_shards(site, mine, parts=parts))
                self._shards[name] = chain

    def _forget(self, run: str) -> None:
        """Take away what a run has beside rows and sites."""
        self._check_run(run, "removes")
        self._rewritten = self._version
        for name in [one.name for one in self._runs.values() if one.info.get("adds_to") == run]:
            del self._runs[name]
        self._runs.pop(run, None)
        self._sealed -= {run}
        self._arrays = {key: array for key, array in self._arrays.items() if key[0] != run}

    def _remove(self, run: str) -> None:
        """Take a run away with everything that it owns; rows behind its own move up."""
        self._forget(run)
        for name in self._before._tables.keys() | self._tables.keys():  # noqa: SLF001
            self._table(name).remove(run, version=self._version)
        for name, site in list(self._sites.items()):
            self._move(site)
            if not self._placed(name) and self._owners[name][0] == run:
                del self._sites[name], self._owners[name]

    def _move(self, site: SiteSpec) -> None:
        """Keep the shards of a site whose rows are still there, where these are now."""
        parts, placed = self._table(site.table).parts, self._placed(site.name)
        found = [(shard, parts.get(shard.base)) for shard in placed]
        placed[:] = [
            replace(shard, row_start=part.start + shard.ref.row_start)
            for shard, part in found
            if part is not None
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

    def _chain(self, site: str) -> OpenChain[PlacedShard]:
        if site not in self._shards:
            before = self._before._shards.get(site, _NO_SHARDS)  # noqa: SLF001
            self._shards[site] = OpenChain(before)
        return self._shards[site]

    def _placed(self, site: str) -> list[PlacedShard]:
        """Return all shards of a site, to be changed."""
        return self._chain(site).whole()

    def _declare(self, site: SiteSpec, *, run: str) -> None:
        known = self._sites.get(site.name)
        if known is None:
            check_site(site)
            self._sites[site.name] = site
            self._owners[site.name] = (run, self._version)
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
        self._array_versions.setdefault(array.name, self._version)
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
            before = self._before._tables.get(name, _NO_ROWS)  # noqa: SLF001
            self._tables[name] = OpenTable(before)
        return self._tables[name]

    def _place(self, shard: ShardRef) -> None:
        site = self._sites.get(shard.site)
        if site is None:
            raise CorruptShardError(f"{shard.path!r} is of site {shard.site!r}: nobody declared it")
        checked(shard, site)
        start = self._table(site.table).parts.start_of(shard, version=self._version)
        if shard.rows:
            one = PlacedShard(shard, start, self._version)
            insert(self._chain(site.name).behind(one.base), one)

    def result(self) -> Snapshot:
        """Return the snapshot after what was added."""
        before = self._before
        if not self._commits:
            return before
        self._settle()
        names = sorted(self._sites, key=natural_key)
        return Snapshot(
            identity=before.identity,
            version=self._version,
            runs=self._runs,
            sites={name: self._sites[name] for name in names},
            commits=CommitList.joined(before.commits, self._commits),
            entries=self._entries,
            sealed=self._sealed,
            expired=self._expired,
            rewritten=self._rewritten,
            _owners=self._owners,
            _tables={**before._tables, **{k: v.closed() for k, v in self._tables.items()}},  # noqa: SLF001
            _shards={**before._shards, **{k: v.closed() for k, v in self._shards.items()}},  # noqa: SLF001
            _arrays=self._arrays,
            _array_versions=self._array_versions,
            _paths=frozenset(self._paths),
        )


def _paths(commit: Commit) -> list[str]:
    """Return the files that a commit names."""
    paths = [file.path for file in commit.tables]
    paths += entry_paths(commit.entries)
    paths += [shard.path for shard in commit.shards]
    paths += [shard.stats.path for shard in commit.shards if shard.stats is not None]
    return paths + [array.path for array in commit.arrays]
