"""What a copy of rows has done: its commits so far, noted where it writes to."""

from __future__ import annotations

from collections.abc import Sequence

from lazycache.care.checked_files import files_of
from lazycache.catalog import records
from lazycache.catalog.staging import StagedStore
from lazycache.errors import CorruptShardError
from lazycache.storage.layout import log_path
from lazycache.storage.store import Store
from lazycache.types import Commit, Identity

_PREFIX = ".lazycache-copy-"
_FIRST = "-000000.json"


class CopyNotes:
    """Hidden objects of the target, one for each part that is written.

    They are of parts of one size: those of another size say nothing of these.

    Example:
        >>> from lazycache.storage.open_store import open_store
        >>> store = open_store("memory://copy-notes-doctest", create=True, storage_options=None)
        >>> notes = CopyNotes(store, Identity(1, "u", "now"), part_bytes=100)
        >>> notes.add(0, [Commit(1, "t", "w", "now", "main")])
        >>> staged = StagedStore(store)
        >>> notes.restore(staged), [info.path for info in staged.list("_log/")]
        (1, ['_log/00000000000000000001.json'])
        >>> notes.remove()
        >>> notes.exist()
        False
    """

    def __init__(self, target: Store, identity: Identity, *, part_bytes: int) -> None:
        self._target = target
        self._prefix = f"{_PREFIX}{identity.uuid}-"
        self._part_bytes = part_bytes

    def exist(self) -> bool:
        """Whether a copy has begun and was not finished: the first note, of any size, is there."""
        return any(path.endswith(_FIRST) for path in self._paths())

    def add(self, number: int, commits: Sequence[Commit]) -> None:
        """Note that a part is written: the commits that name its files."""
        self._target.put(self._path(number), b"".join(map(records.encode, commits)))

    def restore(self, staged: StagedStore) -> int:
        """Give the commits that were noted to a new dataset; return of how many parts they are.

        A part counts if all of its files are there, and all parts before it.
        """
        sizes = {info.path: info.size for info in self._target.list("")}
        number = version = 0
        known: list[Commit] = []
        while self._path(number) in sizes:
            commits = self._noted(number, version)
            files = files_of([*known, *commits])
            if not all(sizes.get(file.path) == file.length for file in files.values()):
                break
            for commit in commits:
                staged.put_if_absent(log_path(commit.version), records.encode(commit))
            known, version, number = [*known, *commits], version + len(commits), number + 1
        return number

    def remove(self) -> None:
        """Drop the notes, the first one first: without it the copy is there."""
        for path in sorted(self._paths(), key=lambda path: not path.endswith(_FIRST)):
            self._target.delete(path)

    def _paths(self) -> list[str]:
        paths = (info.path for info in self._target.list(""))
        return [path for path in paths if path.startswith(self._prefix)]

    def _path(self, number: int) -> str:
        return f"{self._prefix}{self._part_bytes}-{number:06d}.json"

    def _noted(self, number: int, version: int) -> list[Commit]:
        """Return the commits of a part, which follow on `version`."""
        lines = self._target.get(self._path(number)).splitlines(keepends=True)
        noted = [b"".join(pair) for pair in zip(lines[::2], lines[1::2], strict=False)]
        if any(map(records.is_torn, noted)):
            raise CorruptShardError(
                f"{self._path(number)!r} of {self._target.url}, the notes of a copy that was "
                "interrupted, is damaged: delete it and copy again."
            )
        return [records.decode(one, version=version + i) for i, one in enumerate(noted, 1)]
