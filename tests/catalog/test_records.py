"""The text of a log record: round trips, and what hostile or damaged text cannot do."""

import json
import zlib
from dataclasses import replace

import pytest
from catalog_helpers import draft, plain, shard, site, small_commit, table_file
from hypothesis import given
from hypothesis import strategies as st

from lazycache.catalog import records
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import CorruptShardError, FormatVersionError, StorageError
from lazycache.types import ChunkRef, Commit, Identity, RunInfo, ShardRef, SiteSpec

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


def sealed(entry):
    """A record of any JSON value, with a right checksum."""
    body = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    return b"%s\n%08x\n" % (body, zlib.crc32(body))


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


SITES = st.builds(
    SiteSpec,
    name=NAMES,
    table=NAMES,
    dtype=NAMES,
    shape=st.lists(SIZES, max_size=3).map(tuple),
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


def spots(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from spots(item, (*path, key))
        else:
            yield (*path, key)


ENTRY = entry_of(replace(small_commit("a1"), version=1))
STRANGE = st.sampled_from(
    [None, True, -1, 1.5, 2**63, 2**200, "", "..", "\x00", [], {}, [[]], {"a": 1}, "../x", 10**15]
)


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


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "data/../../x", "C:\\x", "a\x00b", "", "s3://b/x"]
)
@pytest.mark.parametrize("kind", ["rows", "shard"])
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
