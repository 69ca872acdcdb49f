"""Tables as files of Arrow and Parquet, and as the folder that Hugging Face `datasets` loads."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lazycache.care.exports.arrow_columns import batches, schema
from lazycache.care.exports.contents import Exported
from lazycache.progress import Bar

HF_SHARD_BYTES = 500_000_000
"""Bytes of a file of `datasets`; it loads any number."""


def write_parquet(
    folder: Path, tables: Iterable[Exported], about: Mapping[str, str], bar: Bar
) -> None:
    """Write one Parquet file per table: lists of FLOAT beside the columns of the rows."""
    for table in tables:
        like = schema(table, about)
        path = folder / f"{table.table}.parquet"
        with pq.ParquetWriter(path, like, **_parquet_options(table, like)) as writer:
            for batch in batches(table, like):
                writer.write_batch(batch, row_group_size=max(1, batch.num_rows))
                bar.advance(batch.num_rows)


def _parquet_options(table: Exported, like: pa.Schema) -> dict[str, Any]:
    """Compress the columns of rows; activations are random bits to a compressor."""
    plain = [name for name in like.names if name not in table.names]
    codecs = dict.fromkeys(plain, "zstd")
    for name in table.names:
        nested = isinstance(like.field(name).type, (pa.ListType, pa.FixedSizeListType))
        codecs[f"{name}.list.element" if nested else name] = "none"
    return {"compression": codecs, "use_dictionary": plain, "write_page_checksum": True}


def write_arrow(
    folder: Path, tables: Iterable[Exported], about: Mapping[str, str], bar: Bar
) -> None:
    """Write one Arrow IPC file per table, uncompressed: it can be memory-mapped."""
    for table in tables:
        like = schema(table, about)
        path = str(folder / f"{table.table}.arrow")
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, like) as writer:
            for batch in batches(table, like):
                writer.write_batch(batch)
                bar.advance(batch.num_rows)


def write_hf(folder: Path, tables: Iterable[Exported], about: Mapping[str, str], bar: Bar) -> None:
    """Write what `datasets.load_from_disk` reads: a dictionary of one dataset per table."""
    written = []
    for table in tables:
        like = schema(table, about)
        (folder / table.table).mkdir()
        names = _hf_shards(folder / table.table, batches(table, like), like, bar)
        _write_json(folder / table.table / "state.json", _hf_state(names))
        _write_json(folder / table.table / "dataset_info.json", {"citation": "", "description": ""})
        written.append(table.table)
    _write_json(folder / "dataset_dict.json", {"splits": written})


def _hf_shards(
    folder: Path, rows: Iterator[pa.RecordBatch], like: pa.Schema, bar: Bar
) -> list[str]:
    """Write shards of about one size; return their names, which say how many there are."""
    count, batch = 0, next(rows, None)
    while batch is not None or not count:
        with _hf_shard(folder, count, like) as writer:
            size = 0
            while batch is not None and (not size or size + batch.nbytes <= HF_SHARD_BYTES):
                size += batch.nbytes
                writer.write_batch(batch)
                bar.advance(batch.num_rows)
                batch = next(rows, None)
        count += 1
    names = [f"data-{i:05d}-of-{count:05d}.arrow" for i in range(count)]
    for i, name in enumerate(names):
        (folder / f"{i}.part").rename(folder / name)
    return names


@contextmanager
def _hf_shard(folder: Path, number: int, like: pa.Schema) -> Iterator[Any]:
    path = str(folder / f"{number}.part")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, like) as writer:
        yield writer


def _hf_state(names: list[str]) -> dict[str, Any]:
    return {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": uuid.uuid4().hex[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
