"""What `docs/format.md` says of statistics and values is enough to read them, without lazycache."""

import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from writer_helpers import new_store, new_writer

import lazycache as lc
from lazycache.types import RowBatch, SiteBlock, TableBlock

ROWS, UNITS = 700, 12
BLOCK = ("nans", "pos_infs", "neg_infs", "min", "max", "sum", "mean", "m2")
DTYPES = dict(zip(BLOCK, ["<i4"] * 3 + ["<f4"] * 2 + ["<f8"] * 3, strict=True))


def ops(folder: Path) -> list:
    """The operations of all records, each of which has the checksum that follows it."""
    found = []
    for path in sorted((folder / "_log").iterdir()):
        line, crc, end = path.read_bytes().split(b"\n")
        assert (zlib.crc32(line), end) == (int(crc, 16), b"")
        found += json.loads(line)["ops"]
    return found


def matrices(raw: bytes, part: list, dtypes: list) -> list:
    """The matrices of a part of a statistics file; None where a count is all zero."""
    rows, crc, offsets = part
    stored = [at for at in offsets if at]
    found = [
        np.frombuffer(raw, dtype, rows * UNITS, at).reshape(rows, UNITS) if at else None
        for at, dtype in zip(offsets, dtypes, strict=True)
    ]
    last = offsets[-1] + rows * UNITS * np.dtype(dtypes[-1]).itemsize
    assert zlib.crc32(raw[stored[0] : last]) == crc
    assert not any(at % 64 for at in offsets)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """700 rows of a float32 site with one NaN and one infinity, and values beside it."""
    url = tmp_path_factory.mktemp("plain") / "acts"
    values = torch.arange(ROWS * UNITS, dtype=torch.float32).reshape(ROWS, 3, 4).sin() + 1000
    values[5, 0, 0], values[600, 2, 3] = torch.nan, torch.inf
    tables = {
        "tokens": TableBlock(
            ROWS, {"example": np.zeros(ROWS, int), "position": np.arange(ROWS, dtype=np.int32)}
        ),
        "examples": TableBlock(1, {"example": np.zeros(1, int)}),
    }
    writer = new_writer(new_store(url))
    writer.write(RowBatch(tables, {"a": SiteBlock("tokens", values)}))
    writer.close()
    cache = lc.open(url)
    cache["matrix"] = torch.arange(6, dtype=torch.int16).reshape(3, 2)
    cache["tree"] = {"w": torch.ones(2), "n": (1, float("nan"))}
    cache.persist()
    return url


def test_statistics_are_read_by_what_the_log_says(folder):
    """Blocks, zones and ranks: numbers of the shard's own values, at the places of the log."""
    (shard,) = [op for op in ops(folder) if op["op"] == "shard"]
    chunks, stats = shard["chunks"], shard["stats"]
    data, raw = (folder / shard["path"]).read_bytes(), (folder / stats["path"]).read_bytes()
    assert len(raw) == stats["length"]
    values = np.concatenate([np.frombuffer(data, "<f4", c[0] * UNITS, c[1]) for c in chunks])
    values = values.reshape(ROWS, UNITS)
    finite = np.isfinite(values)
    block = dict(zip(BLOCK, matrices(raw, stats["blocks"], list(DTYPES.values())), strict=True))
    row = 0
    for number, count in enumerate(stats["chunks"]):
        stop = row + sum(chunk[0] for chunk in chunks[:count])
        chunks, at = chunks[count:], slice(row, stop)
        row = stop
        wide, good = values[at].astype("f8"), finite[at]
        assert (block["nans"][number] == np.isnan(wide).sum(0)).all()
        assert (block["pos_infs"][number] == np.isposinf(wide).sum(0)).all()
        assert block["neg_infs"] is None
        mean = wide.mean(0, where=good)
        squares = ((wide - mean) ** 2).sum(0, where=good)
        for name, numbers in (("mean", mean), ("m2", squares), ("sum", wide.sum(0, where=good))):
            np.testing.assert_allclose(block[name][number], numbers, rtol=1e-9)
        assert (block["min"][number] == wide.min(0, where=good, initial=np.inf)).all()
        assert (block["max"][number] == wide.max(0, where=good, initial=-np.inf)).all()
    assert (row, chunks) == (ROWS, [])
    low = np.concatenate([matrices(raw, part, ["<f4", "<f4"])[0] for part in stats["zones"]])
    for zone, least in enumerate(low):
        rows = slice(128 * zone, 128 * zone + 128)
        assert (least == values[rows].min(0, where=finite[rows], initial=np.inf)).all()
    assert len(low) == -(-ROWS // 128)
    top, rows = matrices(raw, stats["top"], ["<f4", "<i4"])
    order = np.argsort(np.where(finite, -values, np.inf), axis=0, kind="stable")[:32]
    assert (rows == order).all()
    assert (top == np.take_along_axis(values, order, 0)).all()


def test_statistics_are_rows_of_any_parquet_reader(folder):
    """Each kind of rows has its columns; the others are NULL, as are counts that are all zero."""
    (shard,) = [op for op in ops(folder) if op["op"] == "shard"]
    stats = shard["stats"]
    path = folder / stats["path"]
    table = pq.read_table(path, page_checksum_verification=True).to_pylist()
    zones = [row for row in table if row["kind"] == "zone"]
    assert [row["row_start"] for row in zones] == list(range(0, ROWS, 128))
    assert sum(row["rows"] for row in zones) == ROWS
    assert {name for row in zones for name, v in row.items() if v is not None} == {
        "kind", "row_start", "rows", "min", "max"
    }  # fmt: skip
    blocks = [row for row in table if row["kind"] == "block"]
    assert len(blocks) == len(stats["chunks"])
    assert all(row["neg_infs"] is None and row["nans"] is not None for row in blocks)
    tops = [row for row in table if row["kind"] == "top"]
    assert {(row["row_start"], row["rows"]) for row in tops} == {(0, ROWS)}
    raw = path.read_bytes()
    (_, values) = matrices(raw, stats["top"], ["<f4", "<i4"])
    assert b"".join(row["top_row"] for row in tops) == values.tobytes()


def test_values_are_read_by_what_the_log_says(folder):
    """A tensor by its chunks and as Parquet; a tree as JSON with numbers of its tensors."""
    found = {op["name"]: op for op in ops(folder) if op["op"] == "entry"}
    (tensor,) = found["matrix"]["tensors"]
    assert (tensor["dtype"], tensor["shape"], tensor["lead"]) == ("int16", [3, 2], 1)
    raw = (folder / tensor["path"]).read_bytes()
    ((rows, at, crc),) = tensor["chunks"]
    assert (len(raw), at % 64, zlib.crc32(raw[at : at + 12])) == (tensor["length"], 0, crc)
    assert np.frombuffer(raw, "<i2", rows * 2, at).tolist() == [0, 1, 2, 3, 4, 5]
    file = pq.ParquetFile(folder / tensor["path"], page_checksum_verification=True)
    assert file.schema_arrow.metadata[b"lazycache.entry"] == b"matrix"
    assert b"".join(v.as_py() for v in file.read()["value"]) == raw[at : at + 12]
    tree = found["tree"]
    text = (folder / tree["path"]).read_bytes()[tree["start"] :][: tree["length"]]
    assert zlib.crc32(text) == tree["crc"]
    assert json.loads(text) == {"dict": {"w": {"tensor": 0}, "n": {"tuple": [1, {"float": "nan"}]}}}
    assert tree["tensors"][0]["shape"] == [2]
