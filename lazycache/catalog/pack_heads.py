"""The head of a pack: what opening needs of many commits, and where the rest is. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazycache.catalog import fields
from lazycache.catalog.chains import Key
from lazycache.catalog.file_records import MOST_ROWS
from lazycache.catalog.int_lists import decode_ints
from lazycache.catalog.pack_blocks import Block, blocks_of
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError

FORMAT = "lazycache-pack"
"""What a head calls itself."""

VERSION = 1
"""The packs that this code reads and writes; others are passed over."""

_MOST_COMMITS = 1 << 40


@dataclass(frozen=True, slots=True)
class Section:
    """Where the ops of one site or table are."""

    live: tuple[Block, ...]
    """What counts at the end of the pack."""
    dead: tuple[Block, ...]
    """Files that the pack itself replaces, and that it does."""


class PackHead:
    """The head of a pack, checked.

    Args:
        line: Its bytes.
        path: Where the pack is, for errors.
        size: Bytes of the pack behind the head.

    Raises:
        CorruptShardError: it is damaged, or says what cannot be.
    """

    def __init__(self, line: bytes, *, path: str, size: int) -> None:
        try:
            self._fill(fields.mapping(json.loads(line)), size)
        except (ValueError, RecursionError, StorageError, FormatVersionError) as exc:
            raise CorruptShardError(f"In {path!r}: {exc}") from exc

    def _fill(self, head: Mapping[str, Any], size: int) -> None:
        if (head.get("format"), head.get("version")) != (FORMAT, VERSION):
            raise CorruptShardError(f"it is no pack of version {VERSION}")
        self.uuid = fields.text(head, "uuid")
        """Of the dataset."""
        self.first, self.last = fields.integer(head, "first"), fields.integer(head, "last")
        if not 0 < self.first <= self.last < _MOST_COMMITS:
            raise CorruptShardError(f"it holds commits {self.first} to {self.last}")
        self.sizes = self._each(head, "records")
        """Bytes of each record: who has others must not use it."""
        self.owners = self._runs(head)
        """The run of each commit."""
        self.rows = dict(map(self._table_rows, fields.sequence(head, "rows")))
        """Table to the versions that add rows to it, and how many each."""
        self.rewrites = self._versions(head.get("rewrites"))
        """Versions that replace files."""
        self.ops = [self.op(entry) for entry in fields.sequence(head, "ops")]
        """Version and op of all that is not of files."""
        self.sections = dict(
            self._section(fields.mapping(entry), size)
            for entry in fields.sequence(head, "sections")
        )
        """Whose ops are where."""
        self.history = blocks_of(head.get("history"), size=size)
        """Where it is said what each commit was."""

    def _each(self, head: Mapping[str, Any], key: str) -> NDArray[np.int64]:
        """Return one number from 0 for each commit."""
        count = self.last - self.first + 1
        numbers = decode_ints(head.get(key), at_most=count)
        if len(numbers) != count or (numbers < 0).any():
            raise CorruptShardError(f"{key} must be {count} numbers")
        return numbers

    def _runs(self, head: Mapping[str, Any]) -> list[str]:
        names = [fields.text({"name": name}, "name") for name in fields.sequence(head, "runs")]
        at = self._each(head, "run")
        if at.max() >= len(names):
            raise CorruptShardError("a commit is of a run that is not in its list")
        return [names[i] for i in at.tolist()]

    def _versions(self, value: Any) -> list[int]:
        versions = decode_ints(value, at_most=self.last - self.first + 1)
        if len(versions) and (
            versions[0] < self.first or versions[-1] > self.last or (np.diff(versions) <= 0).any()
        ):
            raise CorruptShardError("versions must count up, from the first one to the last one")
        return list(versions.tolist())

    def _table_rows(self, value: Any) -> tuple[str, tuple[list[int], list[int]]]:
        entry = fields.mapping(value)
        versions = self._versions(entry.get("versions"))
        rows = decode_ints(entry.get("rows"), at_most=len(versions))
        if len(rows) != len(versions) or (rows < 0).any() or (rows > MOST_ROWS).any():
            raise CorruptShardError("a table does not have rows for its commits")
        return fields.name(entry, "table"), (versions, list(rows.tolist()))

    def op(self, value: Any) -> tuple[int, dict[str, Any]]:
        """Return version and op of an entry; raises `CorruptShardError`."""
        if type(value) is not list or len(value) != 2:  # noqa: PLR2004 - version and op
            raise CorruptShardError("an op must have a version")
        (version,) = fields.integers(value[:1])
        if not self.first <= version <= self.last:
            raise CorruptShardError(f"an op is of version {version}")
        return version, fields.mapping(value[1])

    def _section(self, entry: Mapping[str, Any], size: int) -> tuple[Key, Section]:
        kind = "site" if "site" in entry else "table"
        live, dead = (blocks_of(entry.get(part), size=size) for part in ("live", "dead"))
        return (kind, fields.name(entry, kind)), Section(live, dead)
