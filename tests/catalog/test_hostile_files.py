"""Statistics and values that a hostile or damaged dataset names: refused, by name, in no time."""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from catalog_helpers import LIES, sealed, spots
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_helpers import new_store, new_writer

import lazycache as lc
from lazycache.errors import CorruptShardError, StorageError
from lazycache.types import RowBatch, SiteBlock, TableBlock

ROWS = 400


def made(url: Path) -> Path:
    """A dataset with the statistics of one site, a tensor and a tree; one log record each."""
    tables = {
        "tokens": TableBlock(
            ROWS, {"example": np.zeros(ROWS, int), "position": np.arange(ROWS, dtype=np.int32)}
        ),
        "examples": TableBlock(1, {"example": np.zeros(1, int)}),
    }
    values = torch.arange(ROWS * 16, dtype=torch.float32).reshape(ROWS, 16)
    writer = new_writer(new_store(url))
    writer.write(RowBatch(tables, {"a": SiteBlock("tokens", values)}))
    writer.close()
    cache = lc.open(url)
    cache["t"], cache["n"] = torch.arange(12.0).reshape(3, 4), {"w": [torch.ones(3), 1.5]}
    cache.persist()
    return url


@pytest.fixture
def dataset(tmp_path):
    return made(tmp_path / "acts")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One whose log each example of a property rewrites."""
    return made(tmp_path_factory.mktemp("hostile") / "acts")


def record(url, version):
    path = url / "_log" / f"{version:020d}.json"
    return path, json.loads(path.read_bytes().splitlines()[0])


def changed(url, version, change):
    """Change the ops of a record; its checksum is right again."""
    path, entry = record(url, version)
    change(entry["ops"])
    path.write_bytes(sealed(entry))


def shard_of(ops):
    return next(op for op in ops if op["op"] == "shard")


def use(url):
    """Ask for everything that statistics answer, and for the values."""
    with lc.open(url) as cache:
        x = cache["a"]
        x.mean("rows"), x.std("rows"), x.rows.topk(3), x.statistics()
        if "t" in cache:
            cache["t"][1:].load()
        return cache.get("n")


ORIGINAL = {}


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_any_field_of_statistics_and_values_may_lie(shared, data):
    """Opened and used, the dataset gives values or an error of ours; never another, no hang."""
    for version in (1, 2):
        ORIGINAL.setdefault(version, record(shared, version)[0].read_bytes())
        record(shared, version)[0].write_bytes(ORIGINAL[version])
    version = data.draw(st.sampled_from([1, 2]))
    path, entry = record(shared, version)
    ops = entry["ops"]
    spot = shard_of(ops)["stats"] if version == 1 else ops
    place = data.draw(st.sampled_from(list(spots(spot))[1:]))
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = data.draw(st.sampled_from([*LIES, 64, 1 << 40, 1 << 62, "uint8"]))
    path.write_bytes(sealed(entry))
    try:
        use(shared)
    except lc.LazycacheError:
        return


@pytest.mark.parametrize("lead", [1, 2])
def test_more_rows_than_the_file_has_bytes_take_no_memory(dataset, lead):
    """2^40 rows of one byte in a file of a few hundred bytes are refused when they are read."""
    rows = 1 << 40
    lie = {"dtype": "uint8", "shape": [rows, 1], "lead": lead, "length": 2 * rows}
    changed(dataset, 2, lambda ops: ops[0]["tensors"][0].update(lie, chunks=[[rows, 64, 0]]))
    with pytest.raises(CorruptShardError, match="the log recorded"):
        lc.open(dataset)["t"][0].load()
    with pytest.raises(CorruptShardError, match="the log recorded"):
        lc.open(dataset)["t"].source.examples()


@pytest.mark.parametrize("part", ["blocks", "top"])
def test_statistics_beyond_the_end_of_their_file_take_no_memory(dataset, part):
    """A place far behind the end is an error that names the file, before bytes are asked for."""

    def far(ops):
        stats = shard_of(ops)["stats"]
        stats["length"] = 1 << 62
        stats[part][2][-1] = 1 << 61

    changed(dataset, 1, far)
    with pytest.raises(StorageError, match=r"stats/a/.* ends early"):
        use(dataset)


@pytest.mark.parametrize("number", [-5, ROWS + 1, 2**31 - 1])
@pytest.mark.parametrize("part", ["blocks", "top"])
def test_statistics_with_a_right_checksum_may_lie_too(dataset, part, number):
    """Counts beyond the rows, or ranks of rows that are not there, are refused."""

    def lying(ops):
        stats = shard_of(ops)["stats"]
        path = dataset / stats["path"]
        raw, (rows, _, offsets) = bytearray(path.read_bytes()), stats[part]
        numbers = np.full(rows * 16, number, "<i4").tobytes()
        if part == "top":
            raw[offsets[1] : offsets[1] + len(numbers)] = numbers
            first, stop = offsets[0], offsets[1] + len(numbers)
        else:  # all counts are zero, and so not stored: these lie before the other matrices
            first = offsets[0] = offsets[3] - 64 * -(-len(numbers) // 64)
            raw[first : first + len(numbers)] = numbers
            stop = offsets[-1] + rows * 16 * 8
        stats[part][1] = zlib.crc32(raw[first:stop])
        path.write_bytes(raw)

    changed(dataset, 1, lying)
    with pytest.raises(CorruptShardError, match=r"stats/a/.* which cannot be"):
        lc.open(dataset)["a"].mean("rows") if part == "blocks" else lc.open(dataset)["a"].topk(2)


@pytest.mark.parametrize("how", ["flip", "cut", "gone", "link", "pipe"])
def test_damaged_statistics_are_told_by_name(dataset, how):
    """One wrong bit anywhere in what is read, a short, missing or foreign file; values stay."""
    _, entry = record(dataset, 1)
    stats = shard_of(entry["ops"])["stats"]
    path = dataset / stats["path"]
    raw = path.read_bytes()
    first, last = stats["blocks"][2][3], stats["blocks"][2][-1] + 16 * 8 * stats["blocks"][0]
    for at in range(first, last, 61) if how == "flip" else [0]:
        path.unlink()
        if how == "flip":
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
        elif how == "cut":
            path.write_bytes(raw[: last - 1])
        elif how == "link":
            (dataset.parent / "outside").write_bytes(raw)
            path.symlink_to(dataset.parent / "outside")
        elif how == "pipe":
            os.mkfifo(path)
        with pytest.raises(StorageError, match="stats/a/"):
            lc.open(dataset)["a"].mean("rows")
    assert lc.open(dataset, check=True)["a"].rows.load()[1, 0] == 16
