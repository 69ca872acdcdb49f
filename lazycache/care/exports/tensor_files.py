"""Sites as files of tensors: npy, which can be memory-mapped, and safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.care.exports.arrow_files import write_parquet
from lazycache.care.exports.contents import Exported, pieces
from lazycache.codec.dtypes import as_bytes, by_name
from lazycache.progress import Bar
from lazycache.storage.layout import site_dir
from lazycache.types import RAGGED

SAFETENSORS_BYTES = 4 << 30
"""Bytes of values of a safetensors file, or those of one row."""

_SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


def write_npy(folder: Path, tables: Iterable[Exported], about: Mapping[str, str], bar: Bar) -> None:
    """Write `SITE.npy` per site, beside a Parquet file of the rows of each table."""
    for table in tables:
        write_parquet(folder, [Exported(table.sites, table.table, ())], about, bar)
        for name in table.names:
            _npy(folder, table, name, bar)


def _npy(folder: Path, table: Exported, name: str, bar: Bar) -> None:
    spec, rows = table.spec(name), table.covered(name)
    dtype, stem = by_name(spec.dtype), site_dir(name)
    shape: tuple[int, ...] = (len(rows), *spec.shape)
    if spec.layout == RAGGED:
        counts = _counts(table, name, rows)
        np.save(folder / f"{stem}.elements.npy", counts)
        shape = (int(counts.sum()),)
    if len(rows) != len(table.rows):
        np.save(folder / f"{stem}.rows.npy", _places(table, rows))
    with (folder / f"{stem}.npy").open("wb") as file:
        header = {"descr": dtype.widened.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces(rows, table.row_bytes(name)):
            values = table.values(name, piece)
            wide = values if dtype.numpy is not None else values.float()
            file.write(as_bytes(wide.contiguous()))
            bar.advance(len(piece))


def write_safetensors(
    folder: Path, tables: Iterable[Exported], about: Mapping[str, str], bar: Bar
) -> None:
    """Write `SITE-00001-of-00002.safetensors` per site, beside a Parquet file of the rows."""
    for table in tables:
        write_parquet(folder, [Exported(table.sites, table.table, ())], about, bar)
        for name in table.names:
            _safetensors(folder, table, name, about, bar)


def _safetensors(
    folder: Path, table: Exported, name: str, about: Mapping[str, str], bar: Bar
) -> None:
    rows = table.covered(name)
    size = max(1, SAFETENSORS_BYTES // max(1, table.row_bytes(name)))
    starts = range(0, max(1, len(rows)), size)
    for number, start in enumerate(starts, 1):
        path = folder / f"{site_dir(name)}-{number:05d}-of-{len(starts):05d}.safetensors"
        with path.open("wb") as file:
            _shard(file, table, name, rows[start : start + size], about, bar)


def _shard(
    file: IO[bytes], table: Exported, name: str, rows: Rows, about: Mapping[str, str], bar: Bar
) -> None:
    spec = table.spec(name)
    shape: tuple[int, ...] = (len(rows), *spec.shape)
    small = {}
    if spec.layout == RAGGED:
        small[f"{name}.elements"] = _counts(table, name, rows)
        shape = (int(small[f"{name}.elements"].sum()),)
    if len(rows) != len(table.rows):
        small[f"{name}.rows"] = _places(table, rows)
    # what a row is, so that the files mean something alone
    meta = {**about, "table": table.table, "shape": json.dumps(list(spec.shape))}
    file.write(_header(name, spec.dtype, shape, small, meta))
    for array in small.values():
        file.write(array.tobytes())
    for piece in pieces(rows, table.row_bytes(name)):
        file.write(as_bytes(table.values(name, piece).contiguous()))
        bar.advance(len(piece))


def _header(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    small: Mapping[str, np.ndarray],
    about: Mapping[str, str],
) -> bytes:
    """Return the length and JSON of a safetensors file; tensors follow each other in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **about}}
    at = 0
    for key, array in small.items():
        entries[key] = {
            "dtype": "I64",
            "shape": [len(array)],
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    nbytes = math.prod(shape) * by_name(dtype).itemsize
    entries[name] = {
        "dtype": _SAFETENSORS[dtype],
        "shape": list(shape),
        "data_offsets": [at, at + nbytes],
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _counts(table: Exported, name: str, rows: Rows) -> np.ndarray:
    """Return how many values each row of a ragged site has: int64[rows]."""
    found = [table.elements(name, piece) for piece in pieces(rows, 8)]
    return np.concatenate([np.empty(0, np.int64), *found])


def _places(table: Exported, rows: Rows) -> np.ndarray:
    """Return which of the exported rows of the table rows are: int64[n]."""
    return np.searchsorted(as_array(table.rows), as_array(rows)).astype(np.int64)
