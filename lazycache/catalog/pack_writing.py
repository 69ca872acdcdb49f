"""The bytes of a pack, from records or from smaller packs. Pure."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lazycache.catalog import records
from lazycache.catalog.chains import Key, Segment
from lazycache.catalog.commit_list import line_of
from lazycache.catalog.int_lists import encode_ints
from lazycache.catalog.pack_blocks import BlockWriter
from lazycache.catalog.pack_files import check_folder
from lazycache.catalog.pack_heads import FORMAT, VERSION
from lazycache.catalog.packs import Pack
from lazycache.catalog.recorded import rows_of
from lazycache.types import Commit

_FILE_OPS = {"shard": "site", "rows": "table"}

RawOps = list[tuple[int, dict[str, Any]]]
"""Version and op, as the records have it."""


@dataclass(slots=True)
class Records:
    """Records that follow each other, taken apart."""

    first: int
    """Version of the first."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each."""
    owners: list[str] = field(default_factory=list)
    """Run of each."""
    rows: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """Table to version and rows of the commits that add to it."""
    rewrites: list[int] = field(default_factory=list)
    """Versions that replace files."""
    ops: RawOps = field(default_factory=list)
    """All that is not of files."""
    files: dict[Key, RawOps] = field(default_factory=dict)
    """Files and drops of each site and table."""
    history: list[list[Any]] = field(default_factory=list)
    """txn, writer, time, shards and their bytes of each."""

    @property
    def last(self) -> int:
        """Version of the last."""
        return self.first + len(self.sizes) - 1

    def add(self, record: bytes) -> None:
        """Take the next record apart; one that is torn counts as empty.

        Raises:
            CorruptShardError: it is damaged, or has a file where those of others lie.
            FormatVersionError: it is of a newer lazycache.
        """
        version, torn = self.last + 1, records.is_torn(record)
        commit = records.void(version) if torn else records.decode(record, version=version)
        for shard in commit.shards:
            check_folder(("site", shard.site), shard)
        for file in commit.tables:
            check_folder(("table", file.table), file)
        self._count(commit, size=len(record))
        for op in () if torn else records.raw_ops(record):
            key = _key(op)
            ops = self.ops if key is None else self.files.setdefault(key, [])
            ops.append((version, op))

    def _count(self, commit: Commit, *, size: int) -> None:
        line = line_of(commit)
        self.sizes.append(size)
        self.owners.append(commit.run)
        self.history.append([line.txn, line.writer, line.time, line.shards, line.nbytes])
        for table, rows in rows_of(commit).items():
            self.rows.setdefault(table, []).append((commit.version, rows))
        if commit.drops:
            self.rewrites.append(commit.version)

    def raw(self, key: Key) -> RawOps:
        """Return version and op of a site or table."""
        return self.files.get(key, [])


def _key(op: dict[str, Any]) -> Key | None:
    """Return whose files an op is about; None if it is of none."""
    kind = _FILE_OPS.get(op["op"])
    if op["op"] == "drop":
        kind = "site" if "site" in op else "table"
    return None if kind is None else (kind, op[kind])


Source = Records | Segment
"""Some records, or some commits of a pack."""


def encode_pack(sources: Sequence[Source], *, uuid: str) -> bytes:
    """Return the pack of sources that follow each other: memory for one site's files at a time.

    Raises:
        CorruptShardError: a pack among them is damaged.
        StorageError: the store failed.
    """
    body = BlockWriter()
    head = {
        "format": FORMAT,
        "version": VERSION,
        "uuid": uuid,
        "first": sources[0].first,
        "last": sources[-1].last,
        "records": _ints(size for one in sources for size in _of(one).sizes),
        **_owners([run for one in sources for run in _of(one).owners]),
        "rows": _rows([_of(one) for one in sources]),
        "rewrites": _ints(at for one in sources for at in _of(one).rewrites),
        "ops": [list(op) for one in sources for op in _of(one).ops],
        "history": body.add(line for one in sources for line in _of(one).history),
        "sections": [_section(key, sources, body) for key in _keys(sources)],
    }
    line = json.dumps(head, separators=(",", ":")).encode()
    return b"%s\n%08x\n%s" % (line, zlib.crc32(line), body.body())


def _of(source: Source) -> Records:
    """Return all of a source but its files."""
    if isinstance(source, Records):
        return source
    pack, first, last = source.source, source.first, source.last
    assert isinstance(pack, Pack), "only packs are packed again"
    a, b = first - pack.first, last - pack.first + 1
    return Records(
        first=first,
        sizes=pack.head.sizes[a:b].tolist(),
        owners=[pack.run_of(version) for version in range(first, last + 1)],
        rows={
            table: [one for one in zip(versions, rows, strict=True) if first <= one[0] <= last]
            for table, versions, rows, _ in pack.rows()
        },
        rewrites=[at for at in pack.rewrites() if first <= at <= last],
        ops=[one for one in pack.head.ops if first <= one[0] <= last],
        history=pack.history()[a:b],
    )


def _ints(numbers: Iterable[int]) -> dict[str, Any]:
    return encode_ints(np.array(list(numbers), np.int64))


def _owners(runs: Sequence[str]) -> dict[str, Any]:
    names = list(dict.fromkeys(runs))
    number = {name: at for at, name in enumerate(names)}
    return {"runs": names, "run": _ints(number[run] for run in runs)}


def _rows(sources: Sequence[Records]) -> list[dict[str, Any]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for source in sources:
        for table, rows in source.rows.items():
            found.setdefault(table, []).extend(rows)
    return [
        {
            "table": table,
            "versions": _ints(version for version, _ in rows),
            "rows": _ints(count for _, count in rows),
        }
        for table, rows in found.items()
        if rows
    ]


def _keys(sources: Sequence[Source]) -> list[Key]:
    found = [one.files if isinstance(one, Records) else one.source.keys for one in sources]
    return list(dict.fromkeys(key for keys in found for key in keys))


def _section(key: Key, sources: Sequence[Source], body: BlockWriter) -> dict[str, Any]:
    """Write the ops of one site or table, apart from those that do not count any more."""
    ops = [one for source in sources for one in _raw(source, key)]
    ops.sort(key=lambda one: (one[0], one[1]["op"] != "drop"))
    added = {op["path"] for _, op in ops if op["op"] != "drop"}
    gone = {path for _, op in ops if op["op"] == "drop" for path in op["paths"]} & added
    live: list[Any] = []
    dead: list[Any] = []
    for version, op in ops:
        for part, one in zip((live, dead), _parted(op, gone), strict=True):
            if one is not None:
                part.append([version, one])
    return {key[0]: key[1], "live": body.add(live), "dead": body.add(dead)}


def _raw(source: Source, key: Key) -> RawOps:
    if isinstance(source, Records):
        return source.raw(key)
    pack = source.source
    assert isinstance(pack, Pack), "only packs are packed again"
    ops = pack.raw(key, whole=True)
    return [one for one in ops if source.first <= one[0] <= source.last]


def _parted(
    op: dict[str, Any], gone: set[str]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return what of an op counts at the end of the pack, and what no longer does."""
    if op["op"] != "drop":
        return (None, op) if op["path"] in gone else (op, None)
    parts = [[path for path in op["paths"] if (path in gone) is dead] for dead in (False, True)]
    live, dead = ({**op, "paths": paths} if paths else None for paths in parts)
    return live, dead
