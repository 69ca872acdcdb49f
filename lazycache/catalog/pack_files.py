"""The files that a pack names: each of its site or table, and in the folder of that. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lazycache.catalog import records
from lazycache.catalog.chains import Key, Ref
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError
from lazycache.storage.layout import DATA_PREFIX, STATS_PREFIX, TABLES_PREFIX, site_dir
from lazycache.types import Drop, ShardRef

_OP_KINDS = {"site": "shard", "table": "rows"}


def order_of(what: Ref | Drop) -> tuple[int, int, int]:
    """Return where an op of one commit comes: what it drops first, then files in row order."""
    return (0, 0, 0) if isinstance(what, Drop) else (1, what.row_start, what.rows)


def file_of(key: Key, op: Mapping[str, Any]) -> Ref | Drop:
    """Return the file or drop of an op of a site or table.

    Raises:
        CorruptShardError: it is not one, or lies where files of others do.
    """
    kind, name = key
    try:
        if op.get("op") not in {"drop", _OP_KINDS[kind]}:
            raise CorruptShardError(f"{str(op.get('op'))[:80]!r} is no op of a {kind}")
        ref: Ref | Drop = records.decode_op(op)
    except (StorageError, FormatVersionError) as exc:
        raise CorruptShardError(str(exc)) from exc
    if isinstance(ref, Drop):
        return ref
    check_folder(key, ref)
    if name != (ref.site if isinstance(ref, ShardRef) else ref.table):
        raise CorruptShardError(f"{ref.path!r} is not of {kind} {name!r}")
    return ref


def check_folder(key: Key, ref: Ref) -> None:
    """Refuse a file that does not lie in the folder of its site or table.

    So no two sites can have one file, though nobody looks at all of them at once.

    Raises:
        CorruptShardError: says where it lies.
    """
    folder, of_statistics = _folders(key)
    outside = not ref.path.startswith(folder)
    if isinstance(ref, ShardRef) and ref.stats is not None:
        outside |= not ref.stats.path.startswith(of_statistics)
    if outside:
        raise CorruptShardError(f"{ref.path!r} is not in {folder!r}, where its files are")


@lru_cache(maxsize=1024)  # asked for each file
def _folders(key: Key) -> tuple[str, str]:
    kind, name = key
    prefix = DATA_PREFIX if kind == "site" else TABLES_PREFIX
    return f"{prefix}{site_dir(name)}/", f"{STATS_PREFIX}{site_dir(name)}/"
