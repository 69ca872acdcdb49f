"""The text of a log record: round trips, and what hostile or damaged text cannot do."""

import json
import math
from dataclasses import replace

import pytest
from catalog_helpers import (
    LIES,
    array,
    draft,
    full_commit,
    plain,
    ragged_site,
    sealed,
    shard,
    site,
    small_commit,
    spots,
    table_file,
)
from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog import records
from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.dtypes import by_name
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError
from lazycache.types import (
    ArrayRef,
    ChunkRef,
    Commit,
    Identity,
    RunInfo,
    ShardRef,
    SiteSpec,
    index_columns,
)

IDENTITY = Identity(version=1, uuid="u", created="2026-01-01")
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)
SIZES = st.integers(0, 2**53)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
PATHS = st.sampled_from(["data/a/1-r0.parquet", "tables/tokens/2-r1.parquet", "x"])


def entry_of(commit):
    return json.loads(records.encode(commit)[:-10])


@st.composite
def shards(draw):
    sizes = draw(st.lists(st.integers(1, 1000), max_size=4))
    length = draw(st.integers(10_000, 2**53))
    chunks = tuple(
        ChunkRef(
            rows=rows,
            value_offset=64 * draw(st.integers(0, length // 64)),
            value_crc=draw(st.integers(0, 2**32 - 1)),
            index_offsets=tuple(draw(st.lists(st.integers(0, length), max_size=3))),
            width=draw(st.none() | st.integers(rows, 2**62)),
        )
        for rows in sizes
    )
    return ShardRef(
        site=draw(NAMES),
        path=draw(PATHS),
        length=length,
        rows=sum(sizes),
        row_start=draw(SIZES),
        covers=draw(st.none() | SIZES),
        chunks=chunks,
    )


@st.composite
def tables(draw):
    examples = draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
    lengths = [draw(st.integers(1, 1000)) for _ in examples]
    file = table_file(
        sum(lengths),
        row_start=draw(SIZES),
        examples=examples,
        lengths=lengths,
        columns=draw(st.dictionaries(NAMES, NAMES, max_size=3)),
    )
    return replace(file, table=draw(NAMES), path=draw(PATHS), length=draw(SIZES))


SHAPES = st.lists(SIZES, max_size=3) | st.sampled_from([[2, -1], [-1], [3, -1, 4]])
ARRAYS = st.builds(
    ArrayRef,
    name=NAMES,
    path=PATHS,
    length=SIZES,
    dtype=NAMES,
    shape=st.lists(SIZES, max_size=3).map(tuple),
    value_offset=SIZES,
    value_crc=SIZES,
)
SITES = st.builds(
    SiteSpec,
    name=NAMES,
    table=NAMES,
    dtype=NAMES,
    shape=SHAPES.map(tuple),
    row_bytes=SIZES,
    layout=NAMES,
)
COMMITS = st.builds(
    Commit,
    version=st.integers(1, 2**60),
    txn=st.text(),
    writer=st.text(),
    time=st.text(),
    run=st.text(),
    runs=st.lists(
        st.builds(RunInfo, name=NAMES, info=st.dictionaries(st.text(), JSON)), max_size=2
    ).map(tuple),
    sites=st.lists(SITES, max_size=2).map(tuple),
    tables=st.lists(tables(), max_size=2).map(tuple),
    shards=st.lists(shards(), max_size=2).map(tuple),
    arrays=st.lists(ARRAYS, max_size=2).map(tuple),
)


@given(COMMITS)
def test_every_commit_comes_back(commit):
    """What is encoded is decoded equal, field by field, and is one line of JSON and a checksum."""
    record = records.encode(commit)
    assert not records.is_torn(record)
    assert record.count(b"\n") == 2
    assert json.loads(record.splitlines()[0])["version"] == commit.version
    assert plain(records.decode(record, version=commit.version)) == plain(commit)


@given(st.data())
def test_every_prefix_is_torn(data):
    """A record that was cut anywhere is recognised as torn, never taken for a whole one."""
    record = records.encode(replace(small_commit("a1"), version=3))
    cut = data.draw(st.integers(0, len(record) - 1))
    assert records.is_torn(record[:cut])
    assert not records.is_torn(record)


@given(st.data())
def test_every_flipped_bit_is_noticed(data):
    """One wrong bit anywhere is an error or a torn record, never another commit."""
    record = bytearray(records.encode(replace(small_commit("a1"), version=3)))
    at = data.draw(st.integers(0, len(record) * 8 - 1))
    record[at // 8] ^= 1 << at % 8
    if not records.is_torn(bytes(record)):
        with pytest.raises(CorruptShardError, match="log record 3"):
            records.decode(bytes(record), version=3)


@given(JSON | st.dictionaries(st.sampled_from(["version", "txn", "ops", "min_reader"]), JSON))
def test_any_json_is_a_commit_or_an_error_of_ours(value):
    """Whatever valid JSON says, the only errors are ours."""
    with pytest.raises((CorruptShardError, FormatVersionError)):
        records.decode(sealed(value), version=1)


ENTRY = entry_of(replace(full_commit("a1"), version=1))
STRANGE = st.sampled_from(LIES)


@given(st.sampled_from(list(spots(ENTRY))[1:]), STRANGE)
def test_any_field_may_lie(place, lie):
    """Any field replaced by anything: a snapshot or an error of ours, never another error."""
    entry = json.loads(json.dumps(ENTRY))
    spot = entry
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = lie
    try:
        snapshot = Snapshot.replay(IDENTITY, [records.decode(sealed(entry), version=1)])
        snapshot.columns("tokens")
        snapshot.extents("tokens")
    except (CorruptShardError, FormatVersionError):
        return
    assert snapshot.version == 1
    check_places(snapshot)


def check_places(snapshot):
    """What a reader computes addresses from is inside of its file, whatever the log says."""
    for name, spec in snapshot.sites.items():
        for placed in snapshot.shards(name):
            for chunk in placed.ref.chunks:
                assert (chunk.width is not None) == (spec.layout == "ragged") == (-1 in spec.shape)
                units = chunk.rows if chunk.width is None else chunk.width
                assert chunk.rows <= units
                assert chunk.value_offset + units * spec.row_bytes <= placed.ref.length
                sizes = [8 if column == "example" else 4 for column in index_columns(spec)]
                for at, size in zip(chunk.index_offsets, sizes, strict=True):
                    assert at + chunk.rows * size <= placed.ref.length
    for kept in snapshot.arrays("main").values():
        nbytes = math.prod(kept.shape) * by_name(kept.dtype).itemsize
        assert 0 < nbytes <= kept.length - kept.value_offset


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "data/../../x", "C:\\x", "a\x00b", "", "s3://b/x"]
)
@pytest.mark.parametrize("kind", ["rows", "shard", "array"])
def test_no_path_of_a_record_leaves_the_dataset(path, kind):
    """A record that names a file outside is refused as a whole."""
    entry = json.loads(json.dumps(ENTRY))
    next(op for op in entry["ops"] if op["op"] == kind)["path"] = path
    with pytest.raises(CorruptShardError, match="log record 1"):
        records.decode(sealed(entry), version=1)


def test_a_record_that_says_another_version_is_refused():
    """A renamed or copied record is not taken for the version of its name."""
    record = records.encode(draft(version=4))
    with pytest.raises(CorruptShardError, match="version 4"):
        records.decode(record, version=5)


def test_a_newer_reader_is_asked_for_before_anything_else():
    """A record for newer readers says so, even when nothing else in it can be understood."""
    with pytest.raises(FormatVersionError, match=r"format 2.*Upgrade"):
        records.decode(sealed({"min_reader": 2, "ops": "new kind"}), version=1)


def test_unknown_operations():
    """An operation that this version does not know is an error, unless it may be skipped."""
    entry = entry_of(draft(version=1, txn="t"))
    entry["ops"] = [{"op": "statistics", "optional": True, "anything": [1]}]
    assert records.decode(sealed(entry), version=1).txn == "t"
    for optional in (False, None, 1, "true"):
        entry["ops"] = [{"op": "statistics", "optional": optional}]
        with pytest.raises(FormatVersionError, match="'statistics'"):
            records.decode(sealed(entry), version=1)


def test_arrays_may_be_skipped_by_readers_that_do_not_know_them():
    """All that is stored can be read without the arrays: their operation says so."""
    (op,) = [op for op in ENTRY["ops"] if op["op"] == "array"]
    assert op["optional"] is True


def test_a_chunk_has_a_fifth_part_only_where_it_is_ragged():
    """Plain chunks stay the four numbers that every reader knows."""
    for op in ENTRY["ops"]:
        if op["op"] == "shard":
            ragged = op["site"] == "pattern_0"
            assert [len(chunk) for chunk in op["chunks"]] == [5 if ragged else 4]


@pytest.mark.parametrize("shape", [[-1.0], [2, -1, -1], [-2], [True], [-1, "3"], "-1", None])
def test_what_is_no_shape_is_refused(shape):
    """One dimension may be -1, as an integer; anything else below 0 is no shape."""
    entry = json.loads(json.dumps(ENTRY))
    next(op for op in entry["ops"] if op["op"] == "site")["shape"] = shape
    with pytest.raises(CorruptShardError, match="log record 1"):
        records.decode(sealed(entry), version=1)


def test_unknown_fields_are_ignored():
    """Later versions may add fields without shutting older readers out."""
    entry = json.loads(json.dumps(ENTRY))
    entry["later"] = 1
    for op in entry["ops"]:
        op["later"] = {"x": [1]}
    assert records.decode(sealed(entry), version=1).txn == "a1"


def test_what_does_not_add_up_is_refused():
    """Rows that are not the sum of their chunks or examples, chunks outside or unaligned."""
    spec = site()
    good = shard(spec, 10, chunk_rows=4)
    chunk = good.chunks[0]
    bad = [
        draft(version=1, shards=[replace(good, rows=11)]),
        draft(version=1, shards=[replace(good, rows=4, chunks=(replace(chunk, value_offset=32),))]),
        draft(version=1, shards=[replace(good, rows=4, chunks=(replace(chunk, value_crc=2**32),))]),
        draft(version=1, shards=[replace(good, rows=0, chunks=(replace(chunk, rows=0),))]),
        draft(version=1, shards=[replace(good, length=64, rows=10)]),
        draft(version=1, shards=[replace(good, rows=4, chunks=(replace(chunk, width=3),))]),
        draft(version=1, shards=[shard(ragged_site(), 0), replace(good, length=100)]),
        draft(version=1, arrays=[array(shape=(-1, 2))]),
        draft(version=1, arrays=[array(path="../x")]),
        draft(version=1, tables=[replace(table_file(3), rows=4)]),
        draft(version=1, tables=[table_file(3, examples=[1, 2], lengths=[3, 0])]),
        draft(version=1, tables=[table_file(3, examples=[1, 2], lengths=[4, -1])]),
        draft(version=1, tables=[table_file(3, examples=[1], lengths=[1, 2])]),
        draft(version=1, tables=[table_file(4, examples=[1] * 8, lengths=[2**61] * 7 + [4])]),
    ]
    for commit in bad:
        with pytest.raises(CorruptShardError):
            records.decode(records.encode(commit), version=1)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b"NaN"])
def test_what_is_not_json_is_refused(body):
    """Broken text, endless nesting and endless numbers are errors of ours."""
    with pytest.raises(CorruptShardError):
        records.decode(sealed(body), version=1)


@pytest.mark.parametrize("info", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_information_that_is_not_json_cannot_be_written(info):
    """The writer hears of it, before anything is written."""
    with pytest.raises(StorageError, match="plain JSON"):
        records.encode(draft(version=1, runs=[RunInfo("main", info)]))


@pytest.mark.parametrize("field", ["writer", "time", "txn", "run"])
def test_half_a_character_is_no_text(field):
    """JSON can hold lone surrogates, which no other text can: they are refused where they enter."""
    entry = entry_of(replace(small_commit("a"), version=1))
    entry[field] = "\ud800"
    with pytest.raises(CorruptShardError, match=f"{field} is not Unicode text"):
        records.decode(sealed(entry), version=1)
    entry[field] = "\U0001f600"
    assert getattr(records.decode(sealed(entry), version=1), field) == "\U0001f600"
    raw = sealed(
        json.dumps(entry, ensure_ascii=False)
        .replace("\U0001f600", "\udfff")
        .encode(errors="surrogatepass")
    )
    with pytest.raises(CorruptShardError, match=f"{field} is not Unicode text"):
        records.decode(raw, version=1)


def test_more_examples_than_rows_are_refused_before_they_are_unpacked():
    """The rows of a file bound the lists of its examples."""
    entry = entry_of(replace(small_commit("a"), version=1))
    (op,) = [op for op in entry["ops"] if op["op"] == "rows" and op["table"] == "tokens"]
    op["examples"]["n"] = 1 << 27
    with pytest.raises(CorruptShardError, match="134217728 integers, where 3 can be"):
        records.decode(sealed(entry), version=1)
