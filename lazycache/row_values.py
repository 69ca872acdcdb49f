"""Values with a row for each row of a dataset, stored as sites by `cache.persist`.

`cache["features"] = cache["resid_out_3"].map(sae.encode)` is such a value. As a site it is a column
of SQL, has statistics, and is read like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.names.head_names import parse
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.catalog.run_info import ADDS_TO
from lazycache.catalog.snapshot import Addition
from lazycache.errors import CommitConflictError
from lazycache.late_bars import late_bar
from lazycache.rewriting import BATCH_BYTES, SETTINGS
from lazycache.types import (
    EXAMPLES,
    INDEX_COLUMNS,
    TOKENS,
    EntryRef,
    RowBatch,
    RunInfo,
    SiteBlock,
    TableBlock,
)
from lazycache.writer.parts import Place
from lazycache.writer.writer import DatasetWriter

_BATCH_ROWS = 1 << 16
"""Most rows whose example and position are asked for at once."""


def as_sites(sites: StoredSites, values: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """Return the values that become sites of a dataset: lazy, a row for each row of a table.

    Of `tokens` or `examples`, as the snapshot has them. One under the name of a head, or of a value
    that is stored beside the sites, is none of them. Reads nothing.

    Raises:
        CommitConflictError: the snapshot has a site of such a name.
    """
    found = {
        name: value
        for name, value in values.items()
        if isinstance(value, LazyTensor)
        and parse(name) is None
        and name not in sites.snapshot.entries
        and _has_all_rows(sites, value)
    }
    for name in found:
        if name in sites.sites:
            raise CommitConflictError(
                f"{sites.url} has a site {name!r} already, and the values of a site never change. "
                "Persist yours under another name; lc.open(url) shows the site."
            )
    return found


def _has_all_rows(sites: StoredSites, value: LazyTensor) -> bool:
    table, origins = value.source.spec.table, value.source.origins
    count = sites.snapshot.rows(table)
    if table not in (TOKENS, EXAMPLES) or origins is None or not value.lead_ndim or not count:
        return False
    rows = value.rows
    if len(rows) != count or rows.row_shape != value.row_shape:
        return False
    found = origins(as_array(rows.lead.flat()))
    return (
        len(found) == 1
        and found[0].table == table
        and found[0].tables.snapshot is sites.snapshot
        and np.array_equal(found[0].rows, np.arange(count))
    )


def add_sites(
    sites: StoredSites, values: Mapping[str, LazyTensor], entries: Sequence[EntryRef]
) -> int:
    """Compute the rows of values and store them as sites; return the version that has them.

    All of them, of all runs, and the values beside the sites that `entries` name are one commit: of
    a process that is killed everything is there or nothing.

    Cost: each row is computed and written once, in batches of 32 MiB.

    Raises:
        CommitConflictError: the rows have such a site by now; nothing was added.
        StorageError: the store failed.
    """
    snapshot = sites.snapshot
    runs = list(dict.fromkeys(addition.run for addition in snapshot.additions))
    writer = DatasetWriter(
        sites.store,
        snapshot=snapshot,
        run=snapshot.runs[runs[0]],
        notes=[note for run in runs for note in _notes(run, values)],
        entries=entries,
        settings=SETTINGS,
    )
    try:
        with late_bar("persist", total=sum(value.nbytes for value in values.values())) as bar:
            for name, value in values.items():
                table = value.source.spec.table
                for addition in snapshot.additions:
                    for batch, place in _batches(addition, name, value):
                        writer.cover(batch, {table: place})
                        bar.advance(batch.nbytes)
        version = writer.commit()
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return version


def _notes(run: str, values: Mapping[str, LazyTensor]) -> Iterator[RunInfo]:
    """Describe what is added to a run."""
    for name, value in values.items():
        yield RunInfo(f"{run}+{name}", {ADDS_TO: run, "values": {name: f"{value!r}"}})


def _batches(addition: Addition, name: str, value: LazyTensor) -> Iterator[tuple[RowBatch, Place]]:
    """Yield the rows that one commit has added, with where they are."""
    table, rows = value.source.spec.table, value.rows
    first, stop = addition.rows.get(table, (0, 0))
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
