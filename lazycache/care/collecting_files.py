"""Which files of a dataset are needed, by which of its versions, as the log says. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lazycache.catalog.entry_records import entry_paths
from lazycache.catalog.named_files import named_files
from lazycache.catalog.snapshot import Snapshot
from lazycache.types import Commit, EntryRef, Identity

_FOLDERED = r"(?:data|stats|tables|arrays)/[A-Za-z0-9._~-]+/[0-9a-f]{32}-r[0-9]+\.parquet"
_OURS = re.compile(rf"{_FOLDERED}|entries/[0-9a-f]{{32}}\.(?:parquet|json)")


def is_ours(path: str) -> bool:
    """Whether a path is one that a writer makes; what is called otherwise is never deleted.

    Example:
        >>> is_ours("data/embed/0123456789abcdef0123456789abcdef-r0.parquet")
        True
        >>> is_ours("data/embed/notes.parquet"), is_ours("README.md")
        (False, False)
    """
    return _OURS.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Needs:
    """What the log says of files."""

    snapshot: Snapshot
    """The newest version."""
    named: frozenset[str]
    """Every file that any commit names."""
    live: frozenset[str]
    """Those that the newest version needs."""
    replaced: Mapping[str, int]
    """Those that some version needed and it does not, and the first one that did not."""

    @staticmethod
    def of(identity: Identity, commits: Sequence[Commit]) -> Needs:
        """Gather them. Cost: one replay of the log, and a look at all files for each removed run.

        Raises:
            CorruptShardError: the commits contradict each other.
        """
        history = _History(identity)
        for commit in commits:
            history.add(commit)
        return history.result()


class _History:
    """The log, read commit by commit for what becomes of files."""

    def __init__(self, identity: Identity) -> None:
        self._snapshot = Snapshot(identity)
        self._waiting: list[Commit] = []  # not replayed
        self._named: set[str] = set()
        self._stats: dict[str, str] = {}  # of shards
        self._entries: dict[str, EntryRef] = {}
        self._users: dict[str, set[str]] = {}  # of files of values: the names that need them
        self._replaced: dict[str, int] = {}

    def add(self, commit: Commit) -> None:
        """Take the next commit."""
        self._named.update(path for path, _ in named_files(commit))
        self._stats |= {ref.path: ref.stats.path for ref in commit.shards if ref.stats is not None}
        for path in [path for drop in commit.drops for path in drop.paths]:
            self._replaced[path] = commit.version
            if path in self._stats:
                self._replaced[self._stats[path]] = commit.version
        for entry in commit.entries:
            self._store(entry, version=commit.version)
        if commit.removed:
            self._remove(commit)
        else:
            self._waiting.append(commit)

    def result(self) -> Needs:
        """Return what was gathered."""
        self._replay()
        live = frozenset(path for path, _ in self._snapshot.paths())
        return Needs(self._snapshot, frozenset(self._named), live, self._replaced)

    def _store(self, entry: EntryRef, *, version: int) -> None:
        old = self._entries.get(entry.name)
        self._entries[entry.name] = entry
        for path in entry_paths([entry]):
            self._users.setdefault(path, set()).add(entry.name)
        for path in set(entry_paths([old] if old else [])) - set(entry_paths([entry])):
            self._users[path].discard(entry.name)
            if not self._users[path]:
                self._replaced[path] = version

    def _remove(self, commit: Commit) -> None:
        self._replay()
        before = {path for path, _ in self._snapshot.paths()}
        self._waiting = [commit]
        self._replay()
        gone = before - {path for path, _ in self._snapshot.paths()}
        self._replaced |= dict.fromkeys(gone, commit.version)

    def _replay(self) -> None:
        self._snapshot = Snapshot.replay(self._snapshot.identity, self._waiting, self._snapshot)
        self._waiting = []
