"""Datasets that lie: refused with an error of ours before anything is mapped or allocated."""

import base64
import io
import json
import os
import shutil
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_helpers import sealed
from hostile_datasets import (
    asked_apart,
    change,
    copied,
    made,
    op_of,
    read_record,
    record_path,
    use,
)

import lazycache as lc
from lazycache.codec.tables import decode_table, encode_table
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError

FAR = 1 << 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made(tmp_path_factory.mktemp("hostile") / "acts")


@pytest.fixture
def acts(whole, tmp_path):
    return copied(whole, tmp_path)


PATHS = {
    "up": "data/a/../../../secret",
    "absolute": "/etc/passwd",
    "drive": "C:/secret",
    "url": "file:///etc/passwd",
    "backslash": "data\\..\\secret",
    "nul": "data/a/\x00",
    "newline": "data/a/x\n.parquet",
    "surrogate": "data/a/\ud800",
    "empty part": "data//a",
    "dot": "data/./a",
    "empty": "",
    "long": "a" * 1025,
}


@pytest.mark.parametrize("kind", ["shard", "rows", "array", "stats", "drop"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_no_path_of_a_log_leads_out(acts, kind, path):
    """A path that is not plainly inside the dataset is refused when it is opened, for every op."""

    def lie(entry):
        if kind == "drop":
            entry["ops"].append({"op": "drop", "site": "a", "paths": [path]})
        elif kind == "stats":
            op_of(entry, "shard", site="a")["stats"]["path"] = path
        else:
            op_of(entry, kind)["path"] = path

    change(acts, 1, lie)
    with pytest.raises(CorruptShardError, match="log record 1"):
        lc.open(acts)
    assert not lc.verify(acts).ok


@pytest.mark.parametrize(
    "kind", ["shard", "rows", "array", "entry", "record", "identity", "folder"]
)
def test_a_link_out_of_the_dataset_is_not_followed(acts, tmp_path, kind):
    """A symbolic link is an error that names the file, though what it leads to would be right."""
    entry = read_record(acts, 3 if kind == "entry" else 1)
    if kind == "folder":
        path = acts / "data" / "a"
    elif kind == "record":
        path = record_path(acts, 1)
    elif kind == "identity":
        path = acts / "lazycache.json"
    else:
        path = acts / (op_of(entry, kind).get("path") or op_of(entry, kind)["tensors"][0]["path"])
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    if kind != "array":  # nothing that is computed from it is asked for
        with pytest.raises(StorageError, match=r"link|leads out"):
            use(acts)
    if kind == "identity":
        with pytest.raises(StorageError, match=r"link|leads out"):
            lc.verify(acts)
    else:
        assert not lc.verify(acts).ok


def site_of(entry, name="a"):
    return op_of(entry, "site", name=name)


def shard_of(entry, name="a"):
    return op_of(entry, "shard", site=name)


CLAIMS = {
    "dtype": lambda e: site_of(e).update(dtype="float64"),
    "unknown dtype": lambda e: site_of(e).update(dtype="object"),
    "shape": lambda e: site_of(e).update(shape=[17]),
    "huge shape": lambda e: site_of(e).update(shape=[FAR], row_bytes=4 * FAR),
    "product that wraps": lambda e: site_of(e).update(shape=[1 << 32, 1 << 32], row_bytes=4),
    "many dimensions": lambda e: site_of(e).update(shape=[1] * 33),
    "no bytes": lambda e: site_of(e).update(shape=[0], row_bytes=0),
    "layout": lambda e: site_of(e).update(layout="column"),
    "table": lambda e: site_of(e).update(table="secrets"),
    "negative offset": lambda e: shard_of(e)["chunks"][0].__setitem__(1, -64),
    "odd offset": lambda e: shard_of(e)["chunks"][0].__setitem__(1, 65),
    "offset behind the end": lambda e: shard_of(e)["chunks"][0].__setitem__(1, FAR),
    "index behind the end": lambda e: shard_of(e)["chunks"][0][3].__setitem__(0, FAR),
    "negative index": lambda e: shard_of(e)["chunks"][0][3].__setitem__(1, -4),
    "more rows than chunks": lambda e: shard_of(e).update(rows=10**9),
    "chunk of a billion rows": lambda e: (
        shard_of(e)["chunks"][0].__setitem__(0, 10**9),
        shard_of(e).update(rows=10**9 + 300),
    ),
    "shard twice": lambda e: e["ops"].append(shard_of(e)),
    "rows of others": lambda e: shard_of(e).update(row_start=1),
    "rows of the future": lambda e: shard_of(e).update(covers=9),
    "width of no ragged site": lambda e: shard_of(e)["chunks"][0].append(400),
    "no width": lambda e: shard_of(e, "p")["chunks"][0].pop(),
    "huge width": lambda e: shard_of(e, "p")["chunks"][0].__setitem__(4, FAR),
    "array": lambda e: op_of(e, "array").update(shape=[FAR]),
    "tile": lambda e: shard_of(e).update(tile=3),
    "billions of tiles": lambda e: shard_of(e).update(tile=1 << 62),
    "seal of nobody's run": lambda e: e["ops"].append({"op": "seal", "run": ""}),
    "removal of nobody's run": lambda e: e["ops"].append({"op": "remove", "run": "x"}),
    "replaces what is not there": lambda e: e["ops"].append(
        {"op": "drop", "site": "a", "paths": ["data/a/0-r0.parquet"]}
    ),
    "rank": lambda e: e["ops"].append({"op": "session", "rank": 1 << 40, "id": "x"}),
    "version": lambda e: e.update(version=2),
    "a float for a number": lambda e: shard_of(e).update(length=1e9),
    "a bool for a number": lambda e: shard_of(e).update(row_start=False),
    "bidi in a name": lambda e: site_of(e).update(name="a\u202eb"),
    "newline in a name": lambda e: site_of(e).update(name="a\nb"),
    "escape in a name": lambda e: site_of(e).update(name="\x1b[2J"),
    "surrogate in a name": lambda e: site_of(e).update(name="\ud800"),
    "long name": lambda e: site_of(e).update(name="a" * 501),
}


@pytest.mark.parametrize("lie", CLAIMS.values(), ids=CLAIMS)
def test_what_cannot_be_is_refused_when_it_is_opened(acts, lie):
    """Sizes, offsets, shapes and names are compared before an address is computed from them."""
    change(acts, 1, lie)
    with pytest.raises(CorruptShardError, match=r"[Ll]og record 1|_log|\.parquet|Site|Commit"):
        lc.open(acts)
    report = lc.verify(acts)
    assert (report.ok, report.version) == (False, 0)


def test_a_name_that_looks_like_another_is_another(acts):
    """A Cyrillic a is a site of its own; asking for the Latin one never finds it."""
    change(acts, 2, lambda e: e["ops"].append({**site_of(read_record(acts, 1)), "name": "\u0430"}))
    cache = lc.open(acts)
    assert {"a", "\u0430"} <= set(cache)
    assert cache["a"].load() is not None
    assert cache.snapshot.covered("\u0430") == 0


def test_a_changed_copy_does_not_answer_for_the_first_one(whole, tmp_path):
    """A copy with uuid, version and transactions of a trusted dataset gets an index of its own."""
    copy = shutil.copytree(whole, tmp_path / "acts")
    rows = decode_table((copy / table_op(copy)["path"]).read_bytes())
    forged = {name: rows[name] for name in rows.column_names} | {"token": ["forged"] * len(rows)}
    put_table(copy, encode_table(forged))
    query = "SELECT count(*) FROM tokens WHERE token = 'forged'"
    counts = []
    for url in (copy, whole):
        with lc.open(url) as cache:
            counts.append(cache.sql(query).fetchall()[0][0])
    assert counts == [400, 0]


@pytest.mark.parametrize("deep", ["[", '{"a":', '[{"x":'])
def test_deep_json_is_an_error_of_ours(acts, deep):
    """A hundred thousand levels in a record, in the provenance or the identity end no process."""
    text = (deep * 100_000).encode()
    record_path(acts, 1).write_bytes(sealed(text))
    with pytest.raises(CorruptShardError):
        lc.open(acts)
    (acts / "lazycache.json").write_bytes(text)
    with pytest.raises(CorruptShardError):
        lc.open(acts)


def test_a_log_that_loops_is_refused(acts):
    """A record that stands for others, by a link or by its version, is not read again."""
    second = record_path(acts, 2)
    second.unlink()
    second.symlink_to(record_path(acts, 1).name)
    with pytest.raises(StorageError, match=r"version 1|link"):
        lc.open(acts)
    second.unlink()
    second.symlink_to(second.name)
    with pytest.raises(StorageError):
        lc.open(acts)


def test_a_record_of_a_newer_lazycache_is_no_damage(acts):
    """An op that is not known, and not optional, asks for an upgrade."""
    change(acts, 1, lambda e: e["ops"].append({"op": "teleport"}))
    with pytest.raises(FormatVersionError, match="teleport"):
        lc.open(acts)
    with pytest.raises(FormatVersionError, match="teleport"):
        lc.verify(acts)


def zeros(nbytes):
    """Zlib of so many MiB of zeros, made by repeating what one MiB becomes."""
    packer = zlib.compressobj(9)
    first = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = nbytes >> 20
    checksum = (nbytes % 65521) << 16 | 1
    packed = first + again * (count - 1) + b"\x03\x00" + checksum.to_bytes(4, "big")
    assert count > 4 or zlib.decompress(packed) == bytes(nbytes)
    return packed


def int_list(n, nbytes):
    """A list of integers that says n, and unpacks to so many bytes."""
    return {"n": n, "z": base64.b64encode(zeros(nbytes)).decode()}


def bomb_ints(acts):
    """A gigabyte of zeros behind a list of 400 integers."""

    def lie(entry):
        op_of(entry, "rows", table="tokens")["examples"] = int_list(1, 1 << 30)

    change(acts, 1, lie)


def bomb_examples(acts):
    """A list that is as long as it says, of as many examples as there would be rows."""
    count = 1 << 28

    def lie(entry):
        op_of(entry, "rows", table="tokens").update(rows=count, examples=int_list(count, 8 * count))

    change(acts, 1, lie)


def bomb_ops(acts):
    """More than a million ops in a record."""
    text = json.dumps(read_record(acts, 1))[:-2].encode() + b',{"op":"x"}' * 1_100_000 + b"]}"
    record_path(acts, 1).write_bytes(sealed(text))


def bomb_record(acts):
    """A record of two gigabytes, most of them a hole of the disk."""
    path = record_path(acts, 4)
    path.write_bytes(sealed(b"{}"))
    os.truncate(path, 1 << 31)


def table_op(acts):
    return op_of(read_record(acts, 1), "rows", table="tokens")


def put_table(acts, data, rows=None):
    path = acts / table_op(acts)["path"]
    path.write_bytes(data)

    def lie(entry):
        op = op_of(entry, "rows", table="tokens")
        op.update(length=len(data))
        if rows is not None:
            op.update(rows=rows, examples=ints([0]), lengths=ints([rows]))

    change(acts, 1, lie)


def ints(values):
    from lazycache.catalog.int_lists import encode_ints

    return encode_ints(np.array(values, np.int64))


def columns(**more):
    return {
        "example": np.zeros(400, int),
        "position": np.arange(400, dtype=np.int32),
        **more,
    }


def parquet(table, **options):
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, **options)
    return sink.getvalue()


def bomb_zstd(acts):
    """Pages of 280 MB of zeros."""
    texts = pa.chunked_array([pa.array(["\0" * (700 << 10)] * 4)] * 100)
    rows = pa.table({**columns(), "token": texts})
    put_table(acts, parquet(rows, use_dictionary=False, data_page_size=1 << 30))


def bomb_dictionary(acts):
    """One text of almost a megabyte that a hundred thousand rows repeat."""
    rows = 100_000
    tokens = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * (900 << 10)])
    index = {"example": np.zeros(rows, int), "position": np.arange(rows, dtype=np.int32)}
    data = parquet(pa.table({**index, "token": tokens}), store_schema=False)
    put_table(acts, data, rows)


def bomb_nulls(acts):
    """Twenty million rows without a text: nothing in the file, offsets in memory."""
    rows = 20_000_000
    some = {"example": pa.repeat(0, 10**6), "position": pa.repeat(pa.scalar(0, pa.int32()), 10**6)}
    one = pa.table({**some, "token": pa.nulls(10**6, pa.string())})
    data = parquet(pa.concat_tables([one] * (rows // 10**6)))
    put_table(acts, data, rows)


def claim_rows(acts):
    """The log says a billion rows, the file of the table has 400."""

    def lie(entry):
        op = op_of(entry, "rows", table="tokens")
        op.update(rows=10**9, examples=ints([0]), lengths=ints([10**9]))

    change(acts, 1, lie)


LIES = [bomb_ints, bomb_examples, bomb_ops, bomb_record, bomb_zstd, bomb_dictionary, bomb_nulls]
LIES += [claim_rows]


def test_what_unpacks_to_gigabytes_is_refused_in_little_memory(whole, tmp_path, figures):
    """Opened, read, asked in SQL and verified, no lie takes 600 MB beyond a good dataset."""
    lies = {lie.__name__: copied(whole, tmp_path / lie.__name__) for lie in LIES}
    for lie in LIES:
        lie(lies[lie.__name__])
    found = asked_apart(whole, lies.values())
    for name, (used, verified, grown) in zip(lies, found, strict=True):
        assert used.startswith(("CorruptShardError", "StorageError")), (name, used)
        assert "problem found" in verified, (name, verified)
        assert " no problem found" not in verified, (name, verified)
        assert grown < 600 << 20, (name, grown >> 20)
    figures.add("bombs refused", len(lies))


@pytest.mark.parametrize("kind", ["list", "struct", "large", "decimal", "dictionary"])
def test_columns_that_no_table_has_are_refused(kind):
    """Nested and foreign types are told by name before a row is decoded."""
    made_of = {
        "list": pa.array([[1], [2]]),
        "struct": pa.array([{"a": 1}, {"a": 2}]),
        "large": pa.array(["a", "b"], pa.large_string()),
        "decimal": pa.array([1, 2]).cast(pa.decimal128(20)),
        "dictionary": pa.array(["a", "b"]).dictionary_encode(),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table({"x": made_of[kind]}), sink)
    with pytest.raises(CorruptShardError, match=r"of a type that no table has|are nested"):
        decode_table(sink.getvalue())


def test_honest_texts_that_repeat_are_read():
    """A long text in many rows is no bomb as long as the rows fit: exact sums decide."""
    texts = ["x" * 60_000] + ["y"] * 20_000
    data = encode_table({"text": texts})
    assert decode_table(data)["text"].to_pylist() == texts
