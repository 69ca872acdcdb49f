"""`lc.export`: a dataset to files of other tools."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazycache.care.beside import check_beside
from lazycache.care.exports.arrow_files import write_arrow, write_hf, write_parquet
from lazycache.care.exports.contents import Exported, exported_tables
from lazycache.care.exports.folder import checked_folder, whole_folder
from lazycache.care.exports.tensor_files import write_npy, write_safetensors
from lazycache.care.whole_sites import whole_sites
from lazycache.catalog.computed import COMPUTED
from lazycache.errors import SelectionError, nearest
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.progress import Bar, bytes_text, progress_bar
from lazycache.storage.open_store import Url

_Write = Callable[[Path, Iterable[Exported], Mapping[str, str], Bar], None]

_WRITERS: Mapping[str, _Write] = {
    "parquet": write_parquet,
    "safetensors": write_safetensors,
    "npy": write_npy,
    "arrow": write_arrow,
    "hf": write_hf,
}
_BITS_KEPT = frozenset({"safetensors"})
_TENSORS = frozenset({"safetensors", "npy"})

ABOUT = "export.json"
"""File of an export that says what it is of."""


@dataclass(frozen=True, slots=True)
class Export:
    """What `lc.export` wrote."""

    path: str
    """The folder."""
    format: str
    """What kind of files."""
    rows: Mapping[str, int]
    """Table to rows."""
    sites: tuple[str, ...]
    """The sites."""
    converted: Mapping[str, str]
    """Site to the dtype it was stored in, where the export holds its values in a wider one."""
    files: int
    """Files."""
    bytes: int
    """Bytes of them."""

    def __str__(self) -> str:
        wider = ", ".join(f"{name} was {dtype}" for name, dtype in self.converted.items())
        rows = ", ".join(f"{count:,} {table}" for table, count in self.rows.items())
        note = f"; float32 now: {wider}" if wider else ""
        return (
            f"{self.path}: {self.format}, sites: {len(self.sites)}, {rows}; "
            f"{self.files:,} files of {bytes_text(self.bytes)}{note}."
        )


def export(
    src: Url,
    out: str | os.PathLike[str],
    format: str = "parquet",  # noqa: A002  # what everybody calls it
    *,
    sites: str | Sequence[str] | None = None,
    where: str | None = None,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Export:
    """Write a dataset as files that other tools read without lazycache.

    ============= ================================================================================
    `parquet`     `TABLE.parquet`: a row per token or example, its columns (those of its example
                  too), and per site a list of numbers
    `arrow`       `TABLE.arrow`: the same as an Arrow IPC file, to be memory-mapped
    `hf`          what `datasets.load_from_disk` loads: a dictionary of one dataset per table
    `npy`         `SITE.npy` of shape [rows, *row], to be memory-mapped; the rows in `TABLE.parquet`
    `safetensors` `SITE-00001-of-00001.safetensors`, bit for bit; the rows in `TABLE.parquet`
    ============= ================================================================================

    Values are exact. bfloat16 and 8-bit floats become float32, which numpy, Arrow and Parquet have
    in their place; float16 does in tables. safetensors keeps each dtype. In a table a row of
    several dimensions is one list, row-major, and a row that a site lacks is NULL. Files of tensors
    have the rows that the site has: where these are not all, `SITE.rows` says which of the table.
    Rows of attention patterns differ in width: their values are one behind the other, and
    `SITE.elements` says how many each row has. `export.json` says what it all is of.

    Args:
        src: Folder or URL of the dataset.
        out: A new or empty folder of this machine. It appears when everything is in it.
        format: One of those above.
        sites: Names or patterns, as `cache.keys` takes them. None: all that are stored; computed
            ones can be named.
        where: Condition in SQL on the rows, as `lc.open` takes it.
        progress: Show a bar where a person can see it.
        storage_options: Handed to fsspec.

    Raises:
        DatasetNotFoundError: there is no dataset.
        DatasetExistsError: `out` is there and not empty, or lies in the dataset.
        CorruptShardError: values are not what was written. Nothing is left.
        SelectionError: there is no such format.
        SiteNotFoundError: a pattern fits nothing; names the nearest.
        StorageError: a store or disk failed, or `out` is a URL. Nothing is left then; a process
            that is killed leaves a hidden folder `.NAME.*.part` beside `out`.

    Cost: every value is read once and written once, 64 MiB (or one row) at a time, and the checksum
    of its chunk is compared; from a store that is not local a chunk is read once more for that.

    Example:
        >>> import tempfile, pyarrow.parquet as pq
        >>> from lazycache.samples import small_cache
        >>> folder = tempfile.mkdtemp()
        >>> export(small_cache().url, folder).rows
        {'examples': 3, 'tokens': 6}
        >>> pq.read_table(folder + "/tokens.parquet")["resid_out_0"][1].as_py()
        [2.0, 3.0]
    """
    write = _WRITERS.get(format)
    if write is None:
        raise SelectionError(f"No format {format!r} to export to. {nearest(format, _WRITERS)}")
    path = checked_folder(out)
    # the files that are written have no checksums of the log any more: only what is whole may go
    with open_dataset(src, where=where, check=True, storage_options=storage_options) as cache:
        check_beside(str(path), cache.url, what="export")
        names = _names(cache, sites)
        tables = exported_tables(cache.stored, names)
        rows = {table.table: len(table.rows) for table in tables}
        total = _total(tables, format)
        about = {"lazycache.dataset": cache.snapshot.identity.uuid}
        about["lazycache.version"] = str(cache.version)
        with whole_folder(path) as folder:
            with progress_bar(f"export {format}", total=total, unit="rows", show=progress) as bar:
                write(folder, tables, about, bar)
            _write_about(folder / ABOUT, cache, names, format=format, where=where, rows=rows)
            sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
        converted = _converted(cache, names, format)
    return Export(str(path), format, rows, tuple(names), converted, len(sizes), sum(sizes))


def _names(cache: ActivationCache, sites: str | Sequence[str] | None) -> list[str]:
    if sites is None:
        return [name for name, spec in cache.sites.items() if spec.layout != COMPUTED]
    names = whole_sites(cache, sites, what="export")
    values = [name for name in names if name not in cache.sites]
    if values:
        raise SelectionError(
            f"{values[0]!r} is a value beside the sites, which has no rows: export takes sites. "
            "Read it with lc.open(url)[name]."
        )
    return names


def _total(tables: Sequence[Exported], format: str) -> int:  # noqa: A002  # as above
    """Return the rows that are written; tensors are written site by site."""
    rows = sum(len(table.rows) for table in tables)
    if format not in _TENSORS:
        return rows
    return rows + sum(len(table.covered(name)) for table in tables for name in table.names)


def _converted(
    cache: ActivationCache,
    names: Sequence[str],
    format: str,  # noqa: A002  # as above
) -> dict[str, str]:
    if format in _BITS_KEPT:
        return {}
    narrow = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
    if format not in _TENSORS:
        narrow.add("float16")
    dtypes = {name: cache.sites[name].dtype for name in names}
    return {name: dtype for name, dtype in dtypes.items() if dtype in narrow}


def _write_about(
    path: Path,
    cache: ActivationCache,
    names: Sequence[str],
    *,
    format: str,  # noqa: A002  # as above
    where: str | None,
    rows: Mapping[str, int],
) -> None:
    converted = _converted(cache, names, format)
    sites = {
        name: {
            "table": cache.sites[name].table,
            "shape": cache.sites[name].shape,
            "dtype": cache.sites[name].dtype,
            "exported_as": "float32" if name in converted else cache.sites[name].dtype,
        }
        for name in names
    }
    about = {
        "written_by": "lazycache",
        "format": format,
        "dataset": cache.snapshot.identity.uuid,
        "version": cache.version,
        "where": where,
        "rows": dict(rows),
        "sites": sites,
        "runs": {run.name: dict(run.info) for run in cache.snapshot.runs.values()},
    }
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
