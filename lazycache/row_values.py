"""Values with a row for each row of a dataset, stored as a site by `cache.persist`.

`cache["features"] = cache["resid_out_3"].map(sae.encode)` is such a value. As a site it is a column
of SQL, has statistics, and is read like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.names.head_names import parse
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.catalog.run_info import ADDS_TO
from lazycache.catalog.snapshot import Addition
from lazycache.rewriting import BATCH_BYTES, SETTINGS
from lazycache.types import (
    EXAMPLES,
    INDEX_COLUMNS,
    TOKENS,
    RowBatch,
    RunInfo,
    SiteBlock,
    TableBlock,
)
from lazycache.writer.parts import Place
from lazycache.writer.writer import DatasetWriter

_BATCH_ROWS = 1 << 16
"""Most rows whose example and position are asked for at once."""


def is_site(sites: StoredSites, name: str, value: Any) -> bool:
    """Whether a value can be a site of a dataset: lazy, with a row for each row of a table.

    Of `tokens` or `examples`, as the snapshot has them, under a name that means no other site.
    Reads nothing.
    """
    if not isinstance(value, LazyTensor) or name in sites.sites or parse(name) is not None:
        return False
    table, origins = value.source.spec.table, value.source.origins
    if table not in (TOKENS, EXAMPLES) or origins is None or not value.lead_ndim:
        return False
    rows = value.rows
    count = sites.snapshot.rows(table)
    if len(rows) != count or rows.row_shape != value.row_shape:
        return False
    found = origins(as_array(rows.lead.flat()))
    return (
        len(found) == 1
        and found[0].table == table
        and found[0].tables.snapshot is sites.snapshot
        and np.array_equal(found[0].rows, np.arange(count))
    )


def add_site(sites: StoredSites, name: str, value: LazyTensor) -> int:
    """Compute the rows of a value and store them as a site; return the version that has it.

    Cost: each row is computed and written once, in batches of 32 MiB; one commit for each run.

    Raises:
        CommitConflictError: the rows have a site of this name by now; nothing was added.
        StorageError: the store failed.
    """
    version = sites.version
    by_run: dict[str, list[Addition]] = {}
    for addition in sites.snapshot.additions:
        if value.source.spec.table in addition.rows:
            by_run.setdefault(addition.run, []).append(addition)
    for run, additions in by_run.items():
        version = _add_to(sites, run, additions, name, value)
    return version


def _add_to(
    sites: StoredSites, run: str, additions: list[Addition], name: str, value: LazyTensor
) -> int:
    """Store the rows of one run."""
    made_of = {name: f"{value!r}"}
    writer = DatasetWriter(
        sites.store,
        snapshot=sites.snapshot,
        run=sites.snapshot.runs[run],
        notes=[RunInfo(f"{run}+{name}", {ADDS_TO: run, "values": made_of})],
        settings=SETTINGS,
    )
    try:
        for addition in additions:
            for batch, place in _batches(addition, name, value):
                writer.cover(batch, {value.source.spec.table: place})
        version = writer.commit()
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return version


def _batches(addition: Addition, name: str, value: LazyTensor) -> Iterator[tuple[RowBatch, Place]]:
    """Yield the rows that one commit has added, with where they are."""
    table, rows = value.source.spec.table, value.rows
    first, stop = addition.rows[table]
    size = max(1, min(_BATCH_ROWS, BATCH_BYTES * len(rows) // max(1, rows.nbytes)))
    for start in range(first, stop, size):
        part = rows[start : min(start + size, stop)]
        index = part.columns(*INDEX_COLUMNS[table])
        columns = {column: index[column].to_numpy() for column in INDEX_COLUMNS[table]}
        values = part.load().detach().cpu().contiguous()
        yield (
            RowBatch({table: TableBlock(len(part), columns)}, {name: SiteBlock(table, values)}),
            Place(addition.version, start - first),
        )
