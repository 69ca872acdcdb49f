"""Columns of the table files of one run, read without the index."""

from __future__ import annotations

from typing import Any

from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.tables import decode_table
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES


def column_by_example(store: Store, snapshot: Snapshot, *, run: str, column: str) -> dict[int, Any]:
    """Return a column of `examples` by the example's id, for one run; None where there is none.

    Cost: reads the files of the table whole; they are small beside any activation.

    Raises:
        CorruptShardError: a table file is damaged or missing.
    """
    found: dict[int, Any] = {}
    for file in snapshot.table_files(EXAMPLES):
        if file.run != run:
            continue
        if column not in file.ref.columns:
            found.update(dict.fromkeys(file.ref.examples.tolist()))
            continue
        rows = decode_table(store.get(file.ref.path))
        found.update(zip(rows["example"].to_pylist(), rows[column].to_pylist(), strict=True))
    return found
