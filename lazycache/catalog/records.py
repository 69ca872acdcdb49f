"""One commit to bytes and back, trusting nothing: the text of a log record. Pure.

A record is one line of JSON, the CRC-32 of that line as eight hexadecimal digits, and a newline
after each. A record without that last line is *torn*: its writer was killed in the middle.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lazycache.catalog import fields
from lazycache.catalog.care_records import CARE_DECODERS, encode_care
from lazycache.catalog.entry_records import decode_entry, encode_entry
from lazycache.catalog.file_records import (
    decode_array,
    decode_rows,
    decode_shard,
    encode_array,
    encode_rows,
    encode_shard,
)
from lazycache.catalog.int_lists import MOST_EXAMPLES
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError
from lazycache.types import Commit, RunInfo, SiteSpec

FORMAT_VERSION = 1
"""The newest format that this code reads, and the one that it writes."""

_TRAILER = re.compile(rb"\n([0-9a-f]{8})\n\Z")
_TRAILER_BYTES = 10
MOST_BYTES = 64 << 20
"""Bytes of a record; those of a commit of 4 GiB have some 100 kB."""

_MOST_NESTED = 4_000_000  # lists and objects: a few hundred bytes of memory each
_MOST_OPS = 1_000_000  # far more than a commit of any model has; less than would fill a memory


def is_torn(record: bytes) -> bool:
    """Whether a record lacks its end: what a killed writer leaves where links are impossible."""
    return _TRAILER.search(record, max(0, len(record) - _TRAILER_BYTES)) is None


def void(version: int) -> Commit:
    """Return what a torn record counts as: a commit that adds nothing; its `txn` is empty."""
    return Commit(version=version, txn="", writer="", time="", run="")


def encode(commit: Commit) -> bytes:
    """Return the record of a commit.

    Raises:
        StorageError: the information of a run is not JSON.

    Example:
        >>> encode(Commit(version=1, txn="t", writer="w", time="now", run="main"))[:32]
        b'{"version":1,"txn":"t","writer":'
    """
    ops = [
        *map(_encode_run, commit.runs),
        *map(_encode_site, commit.sites),
        *map(encode_rows, commit.tables),
        *map(encode_shard, commit.shards),
        *map(encode_array, commit.arrays),
        *map(encode_entry, commit.entries),
        *encode_care(commit),
    ]
    record = {
        "version": commit.version,
        "txn": commit.txn,
        "writer": commit.writer,
        "time": commit.time,
        "run": commit.run,
        "min_reader": FORMAT_VERSION,
        "ops": ops,
    }
    try:
        body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise StorageError(f"The information of a run must be plain JSON: {exc}") from exc
    return b"%s\n%08x\n" % (body, zlib.crc32(body))


def decode(record: bytes, *, version: int) -> Commit:
    """Return the commit of a record that is not torn.

    Raises:
        CorruptShardError: the checksum is wrong, or what it says cannot be.
        FormatVersionError: it was written for newer readers.
    """
    body = record[:-_TRAILER_BYTES]
    where = f"log record {version}"
    if len(record) > MOST_BYTES or body.count(b"[") + body.count(b"{") > _MOST_NESTED:
        raise CorruptShardError(
            f"The {where} has {len(record):,} bytes: up to {MOST_BYTES:,} and {_MOST_NESTED:,} "
            "lists and objects are read. Commit more often."
        )
    if zlib.crc32(body) != int(record[-_TRAILER_BYTES + 1 : -1], 16):
        raise CorruptShardError(f"The checksum of {where} is wrong: its bytes have changed.")
    try:
        entry = fields.mapping(json.loads(body))
        _check_reader(entry, where)
        return _commit(entry, version=version)
    except FormatVersionError:
        raise
    except (ValueError, RecursionError, StorageError) as exc:
        raise CorruptShardError(f"In {where}: {exc}") from exc


def _check_reader(entry: Mapping[str, Any], where: str) -> None:
    needed = fields.integer(entry, "min_reader")
    if needed > FORMAT_VERSION:
        raise FormatVersionError(
            f"The {where} needs a reader of format {needed}; this lazycache reads up to "
            f"{FORMAT_VERSION}. Upgrade lazycache."
        )


def _commit(entry: Mapping[str, Any], *, version: int) -> Commit:
    if fields.integer(entry, "version") != version:
        raise CorruptShardError(f"it says that it is version {entry['version']}")
    if len(fields.sequence(entry, "ops")) > _MOST_OPS:
        raise CorruptShardError(f"it has more than {_MOST_OPS:,} ops")
    return replace(
        decode_ops(entry["ops"], version=version, run=fields.text(entry, "run")),
        txn=fields.text(entry, "txn"),
        writer=fields.text(entry, "writer"),
        time=fields.text(entry, "time"),
    )


def decode_ops(ops: Sequence[Any], *, version: int, run: str) -> Commit:
    """Return the commit that has these ops; who made it, and when, is left empty.

    Raises:
        StorageError: an op says what cannot be.
        FormatVersionError: an op was written for newer readers.
    """
    parts: dict[str, list[Any]] = {op: [] for op in _DECODERS}
    examples = 0
    for value in ops:
        op = fields.mapping(value)
        kind = fields.text(op, "op")
        if kind in _DECODERS:
            parts[kind].append(_DECODERS[kind](op))
            examples += len(parts[kind][-1].examples) if kind == "rows" else 0
            if examples > MOST_EXAMPLES:
                raise CorruptShardError(f"it has rows of more than {MOST_EXAMPLES:,} examples")
        elif op.get("optional") is not True:
            raise FormatVersionError(
                f"The log record {version} holds {kind!r}, which this lazycache does not know. "
                "Upgrade it."
            )
    return Commit(
        version=version,
        txn="",
        writer="",
        time="",
        run=run,
        runs=tuple(parts["run"]),
        sites=tuple(parts["site"]),
        tables=tuple(parts["rows"]),
        shards=tuple(parts["shard"]),
        arrays=tuple(parts["array"]),
        entries=tuple(parts["entry"]),
        drops=tuple(parts["drop"]),
        removed=tuple(parts["remove"]),
        sealed=tuple(parts["seal"]),
        session=(*parts["session"], None)[0],
        expired=max(parts["expire"], default=0),
    )


def decode_op(op: Mapping[str, Any]) -> Any:
    """Return what one op of a known kind says; raises as `decode_ops` does."""
    return _DECODERS[fields.text(op, "op")](op)


def raw_ops(record: bytes) -> list[dict[str, Any]]:
    """Return the ops of a record that can be decoded, as they are written."""
    ops: list[dict[str, Any]] = json.loads(record[:-_TRAILER_BYTES])["ops"]
    return ops


def _encode_run(run: RunInfo) -> dict[str, Any]:
    return {"op": "run", "name": run.name, "info": dict(run.info)}


def _run(op: Mapping[str, Any]) -> RunInfo:
    return RunInfo(name=fields.name(op, "name"), info=fields.mapping(op.get("info")))


def _encode_site(site: SiteSpec) -> dict[str, Any]:
    return {
        "op": "site",
        "name": site.name,
        "table": site.table,
        "dtype": site.dtype,
        "shape": site.shape,
        "row_bytes": site.row_bytes,
        "layout": site.layout,
    }


def _site(op: Mapping[str, Any]) -> SiteSpec:
    return SiteSpec(
        name=fields.name(op, "name"),
        table=fields.name(op, "table"),
        dtype=fields.name(op, "dtype"),
        shape=fields.shape(op.get("shape")),
        row_bytes=fields.integer(op, "row_bytes"),
        layout=fields.name(op, "layout"),
    )


_DECODERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "run": _run,
    "site": _site,
    "rows": decode_rows,
    "shard": decode_shard,
    "array": decode_array,
    "entry": decode_entry,
    **CARE_DECODERS,
}
