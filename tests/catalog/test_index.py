"""The index: what it holds, when it is built, and who may read it."""

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from query_helpers import WORDS, empty_dataset, flip, small_dataset, token_columns

from lazycache.catalog import index as index_module
from lazycache.catalog import index_fill, index_rows, records
from lazycache.catalog.index import KEPT_FILES, build_index, index_directory
from lazycache.errors import CorruptShardError, FormatVersionError
from lazycache.types import Commit


def tables(index, *queries):
    """Rows of queries over an index that is attached as `ix`."""
    with duckdb.connect(":memory:") as connection:
        index.attach(connection, name="ix")
        return [connection.execute(query).fetchall() for query in queries]


def test_it_holds_the_rows_of_the_table_files(tmp_path):
    """Every token and example row, numbered in row order, with the run it belongs to."""
    made = small_dataset(tmp_path)
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    tokens, examples = tables(index, "FROM ix.tokens ORDER BY row", "FROM ix.examples ORDER BY row")
    assert tokens == [
        (row, "main", row // 50, row % 50, row % 5, WORDS[row % 5]) for row in range(5000)
    ]
    assert examples == [(row, "main", row, 50, f"l{row % 3}") for row in range(100)]


def test_it_describes_sites_shards_chunks_commits_and_runs(tmp_path):
    """What the log says of them, with absolute row numbers."""
    made = empty_dataset(tmp_path)
    for number in range(2):
        values = np.arange(6, dtype=np.float32).reshape(3, 2)
        made.commit(
            {"tokens": token_columns([number], 3)},
            {"resid_out_0": ("tokens", torch.from_numpy(values))},
            run=f"run{number}",
        )
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    sites, shards, chunks, commits, runs = tables(
        index,
        "SELECT site, table_name, dtype, shape, row_bytes, rows, shards FROM ix.sites",
        "SELECT site, version, row_start, rows, chunks FROM ix.shards ORDER BY version",
        "SELECT chunk, row_start, rows, value_offset, value_bytes, value_crc FROM ix.chunks",
        "SELECT version, run, txn, shards FROM ix.commits ORDER BY version",
        "FROM ix.runs ORDER BY run",
    )
    assert sites == [("resid_out_0", "tokens", "float32", [2], 8, 6, 2)]
    assert shards == [("resid_out_0", 1, 0, 3, 1), ("resid_out_0", 2, 3, 3, 1)]
    assert chunks == [(0, 0, 3, 64, 24, 7), (0, 3, 3, 64, 24, 7)]
    assert commits == [(1, "run0", "txn-1", 1), (2, "run1", "txn-2", 1)]
    assert runs == [("run0", '{"model": "tiny"}'), ("run1", '{"model": "tiny"}')]


def test_columns_are_the_union_over_commits(tmp_path):
    """A column that a commit lacks is NULL there; JSON stays text; types widen."""
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns([0], 2, score=[1, 2])})
    made.commit({"tokens": token_columns([1], 2, score=[0.5, None], tags=[{"a": [1]}, None])})
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    (rows,) = tables(index, "SELECT score, tags FROM ix.tokens ORDER BY row")
    assert rows == [(1.0, None), (2.0, None), (0.5, '{"a":[1]}'), (None, None)]


def test_names_are_unique_in_sql(tmp_path):
    """User columns that differ in case only, or are called like the index's own, get a suffix."""
    made = empty_dataset(tmp_path)
    more = {"row": [7, 8], "Label": ["a", "b"], "label": [1, 2], 'odd "name"': [True, False]}
    made.commit({"tokens": token_columns([0], 2, **more)})
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    (rows,) = tables(index, 'SELECT row, row_2, Label, label_2, "odd ""name""" FROM ix.tokens')
    assert rows == [(0, 7, "a", 1, True), (1, 8, "b", 2, False)]


def test_an_empty_dataset_has_an_index(tmp_path):
    """Version 0 has all tables, without rows."""
    made = empty_dataset(tmp_path)
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    assert tables(index, "FROM ix.tokens", "FROM ix.examples", "FROM ix.commits") == [[], [], []]


def test_an_existing_index_is_not_built_again(tmp_path, monkeypatch):
    """The second time no table file is opened (they may even be gone), and nothing is written."""
    made = small_dataset(tmp_path)
    first = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    for file in made.snapshot.table_files("tokens"):
        made.store.delete(file.ref.path)
    fills = []
    monkeypatch.setattr(index_module, "fill", lambda *args, **_: fills.append(args))
    before = first.path.stat()
    again = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    assert tables(again, "SELECT count(*) FROM ix.tokens") == [[(5000,)]]
    assert again.path == first.path
    after = again.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert fills == []


def test_the_next_version_reads_new_table_files_only(tmp_path):
    """The index of version 2 grows out of that of version 1."""
    made = small_dataset(tmp_path)
    build_index(made.snapshot, made.store, directory=tmp_path / "index")
    for file in made.snapshot.table_files("tokens"):
        made.store.delete(file.ref.path)
    made.commit({"tokens": token_columns([100], 4, note=["w", "x", "y", "z"])}, run="second")
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    count, new, runs = tables(
        index,
        "SELECT count(*), count(note) FROM ix.tokens",
        "SELECT row, run, example, note FROM ix.tokens WHERE row >= 5000 ORDER BY row",
        "SELECT run FROM ix.runs",
    )
    assert count == [(5004, 4)]
    assert new == [(5000 + i, "second", 100, "wxyz"[i]) for i in range(4)]
    assert runs == [("main",), ("second",)]


def test_a_grown_index_equals_one_built_at_once(tmp_path):
    """Whichever way a version is reached, all tables are the same."""
    made = empty_dataset(tmp_path)
    for number in range(4):
        # the type of a column widens on the way, so that old rows have to be read again
        score = [number, number] if number < 2 else [number + 0.5, None]
        made.commit({"tokens": token_columns([number], 2, score=score)}, run=f"run{number % 2}")
        grown = build_index(made.snapshot, made.store, directory=tmp_path / "grown")
    whole = build_index(made.snapshot, made.store, directory=tmp_path / "whole")
    queries = [
        f"SELECT * FROM ix.{name} ORDER BY ALL"
        for name in ("tokens", "examples", "commits", "runs", "sites", "shards", "chunks")
    ]
    assert tables(grown, *queries) == tables(whole, *queries)


def test_a_copy_of_the_folder_that_grew_on_its_own_is_another_dataset(tmp_path):
    """Two datasets of one uuid and version are told apart by their last commit."""
    one, other = small_dataset(tmp_path / "one"), small_dataset(tmp_path / "other")
    last = other.commits[-1]
    changed = {name: getattr(last, name) for name in Commit.__slots__} | {"txn": "another"}
    other.commits[-1] = Commit(**changed)
    first = build_index(one.snapshot, one.store, directory=tmp_path / "index")
    second = build_index(other.snapshot, other.store, directory=tmp_path / "index")
    assert first.path != second.path


@pytest.mark.parametrize("content", [b"", b"not a database", None])
def test_a_file_that_is_no_index_is_built_again(tmp_path, content):
    """Garbage, an empty file, or another dataset's index under this name."""
    made = small_dataset(tmp_path)
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    if content is None:
        index.path.unlink()
        with duckdb.connect(str(index.path)) as other:
            other.execute("CREATE TABLE index_of AS SELECT 'x' uuid, 1 version, 't' txn")
    else:
        index.path.write_bytes(content)
    again = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    assert tables(again, "SELECT count(*) FROM ix.tokens") == [[(5000,)]]
    with duckdb.connect(str(again.path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM tokens").fetchall() == [(5000,)]


def test_without_a_writable_directory_it_lives_in_memory(tmp_path):
    """A cache directory that cannot be made costs time, never the answer."""
    made = small_dataset(tmp_path)
    (tmp_path / "file").write_text("in the way")
    index = build_index(made.snapshot, made.store, directory=tmp_path / "file" / "index")
    assert index.path is None
    assert tables(index, "SELECT count(*) FROM ix.tokens") == [[(5000,)]]


def test_a_damaged_index_is_not_grown(tmp_path):
    """Where the last index is damaged inside, the next is made of the table files alone."""
    made = small_dataset(tmp_path)
    old = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    flip(old.path)
    made.commit({"tokens": token_columns([100], 4)})
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index").rebuilt()
    (rows,) = tables(index, "SELECT row, token FROM ix.tokens ORDER BY row")
    assert rows[:5000] == [(row, WORDS[row % 5]) for row in range(5000)]
    assert len(rows) == 5004


def test_a_time_that_is_none_is_null(tmp_path):
    """What the log says of times is text: a torn record has none, another says nonsense."""
    made = empty_dataset(tmp_path)
    for number in range(3):
        made.commit({"tokens": token_columns([number], 2)})
    made.commits[0] = replace(made.commits[0], time="yesterday")
    made.commits[1] = records.void(2)
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    commits, count = tables(
        index,
        "SELECT version, time FROM ix.commits ORDER BY version",
        "SELECT count(*) FROM ix.tokens",
    )
    assert commits == [(1, None), (2, None), (3, datetime(2026, 11, 21, 12))]  # noqa: DTZ001
    assert count == [(4,)]


def test_what_an_index_cannot_hold_is_named(tmp_path, monkeypatch):
    """The error is the first one, not that of an aborted transaction."""
    made = small_dataset(tmp_path)
    monkeypatch.setattr(
        index_fill, "run_rows", lambda _: pa.table({"run": pa.array([None], pa.string())})
    )
    with pytest.raises(CorruptShardError, match=r"The log of .* does not fit .*NOT NULL"):
        build_index(made.snapshot, made.store, directory=tmp_path / "index")


def test_without_a_home_it_lives_in_memory(tmp_path, monkeypatch):
    """A user without HOME, in no list of users (a container's), has SQL all the same."""
    made = small_dataset(tmp_path)
    for name in ("LAZYCACHE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert index_directory() is None
    index = build_index(made.snapshot, made.store, directory=None)
    assert index.path is None
    assert tables(index, "SELECT count(*) FROM ix.tokens") == [[(5000,)]]


def test_the_directory_is_the_one_that_is_asked_for(tmp_path, monkeypatch):
    """`LAZYCACHE_CACHE_DIR` decides; `directory` goes before it."""
    made = small_dataset(tmp_path)
    monkeypatch.setenv("LAZYCACHE_CACHE_DIR", str(tmp_path / "cache"))
    assert index_directory() == tmp_path / "cache" / "index"
    index = build_index(made.snapshot, made.store, directory=None)
    assert index.path.is_relative_to(tmp_path / "cache" / "index")


def test_old_index_files_are_removed(tmp_path):
    """Only the newest few versions are kept, and nothing unfinished is left."""
    made = empty_dataset(tmp_path)
    for number in range(KEPT_FILES + 3):
        made.commit({"tokens": token_columns([number], 2)})
        index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    left = sorted(path.name for path in index.path.parent.iterdir())
    assert len(left) == KEPT_FILES
    assert left[-1] == index.path.name


def test_rows_stream_in_batches(tmp_path, monkeypatch):
    """Batches of table files pass through one at a time; row numbers go on over them."""
    monkeypatch.setattr(index_rows, "BATCH_ROWS", 7)
    sizes = []
    complete = index_rows.TableStream._complete

    def watched(self, batch, *, row, run):
        sizes.append(batch.num_rows)
        return complete(self, batch, row=row, run=run)

    monkeypatch.setattr(index_rows.TableStream, "_complete", watched)
    made = empty_dataset(tmp_path)
    made.commit({"tokens": token_columns(range(4), 5)})
    made.commit({"tokens": token_columns(range(4, 6), 5)})
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    (rows,) = tables(index, "SELECT row, example FROM ix.tokens ORDER BY row")
    assert rows == [(row, row // 5) for row in range(30)]
    assert sizes == [7, 7, 6, 7, 3]


def test_a_remote_store_is_read_through_get(tmp_path):
    """Where files have no local path, their bytes are fetched."""
    made = small_dataset(tmp_path)

    class Remote:
        url = "memory://dataset"

        def local_path(self, _path):
            return None

        def get(self, path):
            return made.store.get(path)

    index = build_index(made.snapshot, Remote(), directory=tmp_path / "index")
    assert tables(index, "SELECT count(*), max(row) FROM ix.tokens") == [[(5000, 4999)]]


def test_a_damaged_table_file_is_named(tmp_path):
    """Neither a truncated file nor one with other rows makes an index."""
    made = small_dataset(tmp_path)
    (file,) = made.snapshot.table_files("tokens")
    data = made.store.get(file.ref.path)
    made.store.put(file.ref.path, data[: len(data) // 2])
    with pytest.raises(CorruptShardError, match=r"tables/tokens/.*damaged or missing"):
        build_index(made.snapshot, made.store, directory=tmp_path / "index")
    other = made.snapshot.table_files("examples")[0]
    made.store.put(file.ref.path, made.store.get(other.ref.path))
    with pytest.raises(CorruptShardError, match=r"tables/tokens/"):
        build_index(made.snapshot, made.store, directory=tmp_path / "index")
    made.store.delete(file.ref.path)
    with pytest.raises(CorruptShardError, match=r"tables/tokens/.*missing"):
        build_index(made.snapshot, made.store, directory=tmp_path / "index")
    assert not list((tmp_path / "index").rglob("*.duckdb"))


def test_a_type_of_a_newer_version_is_refused():
    """An unknown column type says that the reader is too old."""
    with pytest.raises(FormatVersionError, match="'decimal'"):
        index_rows.sql_type("price", "decimal")


READ = """
import sys, duckdb
with duckdb.connect(":memory:") as connection:
    connection.execute(f"ATTACH '{sys.argv[1]}' AS ix (READ_ONLY)")
    print(connection.execute("SELECT sum(row) FROM ix.tokens").fetchall()[0][0], flush=True)
    sys.stdin.read()
"""


def test_several_processes_read_one_file_at_once(tmp_path):
    """Two processes and this one have it open at the same time."""
    made = small_dataset(tmp_path)
    index = build_index(made.snapshot, made.store, directory=tmp_path / "index")
    command = [sys.executable, "-c", READ, str(index.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as two:
        assert one.stdout.readline() == two.stdout.readline() == f"{sum(range(5000))}\n"
        assert tables(index, "SELECT sum(row) FROM ix.tokens") == [[(sum(range(5000)),)]]
        one.stdin.close()
        two.stdin.close()
    assert one.returncode == two.returncode == 0
