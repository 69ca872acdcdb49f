"""Batches of a table as Arrow: its columns, then a column of numbers or lists for each site."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch

from lazycache.care.exports.contents import Exported
from lazycache.codec.dtypes import Dtype, by_name
from lazycache.types import RAGGED, SiteSpec


def schema(exported: Exported, about: Mapping[str, str]) -> pa.Schema:
    """Return the schema of the batches of a table."""
    columns = exported.table_columns(np.empty(0, np.int64))
    fields = [
        pa.field(name, _plain(columns.schema.field(name).type)) for name in columns.schema.names
    ]
    return pa.schema([*fields, *map(_field, map(exported.spec, exported.names))], dict(about))


def batches(exported: Exported, like: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table with the values of its sites; NULL where a site lacks a row."""
    for rows in exported.batches():
        columns = exported.table_columns(rows)
        found = [
            columns[name].combine_chunks().cast(like.field(name).type)
            for name in columns.column_names
        ]
        found += [_column(exported, name, rows) for name in exported.names]
        yield pa.RecordBatch.from_arrays(found, schema=like)


def arrow_dtype(dtype: Dtype) -> pa.DataType:
    """Return the Arrow type that holds every value of a dtype; float32 of all narrower floats."""
    narrow = dtype.torch.is_floating_point and dtype.itemsize < torch.float32.itemsize
    return pa.float32() if narrow else pa.from_numpy_dtype(dtype.widened)


def widened(values: torch.Tensor, dtype: Dtype) -> np.ndarray:
    """Return values flat, in numpy, in the type that is exported."""
    target = arrow_dtype(dtype).to_pandas_dtype()
    if values.is_floating_point() and dtype.torch.itemsize < torch.float32.itemsize:
        values = values.float()
    return values.contiguous().reshape(-1).numpy().astype(target, copy=False)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _field(spec: SiteSpec) -> pa.Field:
    dtype = by_name(spec.dtype)
    kind = arrow_dtype(dtype)
    if spec.layout == RAGGED:
        kind = pa.list_(kind)
    elif spec.shape:
        kind = pa.list_(kind, math.prod(spec.shape))
    about = {"lazycache.dtype": spec.dtype, "lazycache.shape": json.dumps(list(spec.shape))}
    return pa.field(spec.name, kind, metadata=about)


def _column(exported: Exported, name: str, rows: np.ndarray) -> pa.Array:
    spec, there = exported.spec(name), exported.there(name, rows)
    mine = rows[there]
    flat = widened(exported.values(name, mine), by_name(spec.dtype))
    missing = None if there.all() else pa.array(~there)
    if spec.layout == RAGGED:
        counts = np.zeros(len(rows) + 1, np.int64)
        counts[1:][there] = exported.elements(name, mine)
        offsets = pa.array(np.cumsum(counts).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(flat), mask=missing)
    size = math.prod(spec.shape)
    if missing is not None:
        full = np.zeros((len(rows), size), flat.dtype)
        full[there] = flat.reshape(-1, size)
        flat = full.reshape(-1)
    if not spec.shape:
        return pa.array(flat, mask=None if missing is None else ~there)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), size, mask=missing)
