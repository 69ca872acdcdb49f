"""The ops of a log record that look after a dataset: files replaced, runs removed, sealed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lazycache.catalog import fields
from lazycache.errors import CorruptShardError
from lazycache.storage.layout import check_path
from lazycache.types import Commit, Drop, Session

_MOST_RANK = 1 << 31


def encode_care(commit: Commit) -> Iterator[dict[str, Any]]:
    """Yield the ops of a commit that replace, remove, seal, begin or expire something.

    Example:
        >>> list(encode_care(Commit(2, "t", "w", "now", "", sealed=("main",))))
        [{'op': 'seal', 'run': 'main', 'optional': True}]
    """
    for drop in commit.drops:
        of = {"site": drop.site} if drop.site is not None else {"table": drop.table}
        yield {"op": "drop", **of, "paths": list(drop.paths)}
    for run in commit.removed:
        yield {"op": "remove", "run": run}
    for run in commit.sealed:
        yield {"op": "seal", "run": run, "optional": True}
    if (one := commit.session) is not None:
        yield {"op": "session", "rank": one.rank, "id": one.id, "optional": True}
    if commit.expired:
        yield {"op": "expire", "before": commit.expired, "optional": True}


def _drop(op: Mapping[str, Any]) -> Drop:
    site = fields.name(op, "site") if "site" in op else None
    table = fields.name(op, "table") if "table" in op else None
    paths = [fields.text({"path": path}, "path") for path in fields.sequence(op, "paths")]
    if (site is None) == (table is None) or not paths:
        raise CorruptShardError("a drop is of files of one site, or of one table")
    return Drop(site, table, tuple([check_path(path) for path in paths]))


def _session(op: Mapping[str, Any]) -> Session:
    rank = fields.integer(op, "rank")
    if rank > _MOST_RANK:
        raise CorruptShardError(f"{rank} is no rank of a process")
    return Session(rank, fields.name(op, "id"))


CARE_DECODERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "drop": _drop,
    "remove": lambda op: fields.name(op, "run"),
    "seal": lambda op: fields.name(op, "run"),
    "session": _session,
    "expire": lambda op: fields.integer(op, "before"),
}
"""Op to what reads it; each raises `CorruptShardError` as `fields` does."""
