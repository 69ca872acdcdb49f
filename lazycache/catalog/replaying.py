"""The replay of the log: commits, or packs of them, one after the other onto a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lazycache.catalog.chains import Chain, OpenChain, Segment
from lazycache.catalog.commit_list import CommitList
from lazycache.catalog.conflicts import same_array
from lazycache.catalog.entry_records import check_entry
from lazycache.catalog.named_files import named_files
from lazycache.catalog.natural import natural_key
from lazycache.catalog.placing import check_array, check_site, check_tiling
from lazycache.catalog.row_spaces import OpenTable, Table
from lazycache.catalog.site_shards import PlacedShard, checked, insert
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError
from lazycache.types import ArrayRef, Commit, Drop, ShardRef, SiteSpec

_NO_ROWS = Table()
_NO_SHARDS: Chain[PlacedShard] = Chain()


class Replay:
    """A snapshot in the making: copies what it changes of the one before, nothing else."""

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
        self._arrays = dict(before._arrays)  # noqa: SLF001 - a snapshot in the making
        self._array_versions = dict(before._array_versions)  # noqa: SLF001 - likewise
        self._entries = dict(before.entries)
        self._paths = set(before._paths)  # noqa: SLF001 - a snapshot in the making

    def add(self, commit: Commit) -> None:
        """Apply one commit."""
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
        self._claim([path for path, _ in named_files(commit)])

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
