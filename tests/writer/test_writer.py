"""The writer: whole batches, exact rows, bounded queue, errors that reach the caller."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_helpers import READERS, value_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from writer_helpers import (
    SITES,
    StoreAround,
    UploadAround,
    check_dataset,
    data_files,
    log_bodies,
    make_batch,
    named_files,
    new_store,
    new_writer,
    read_site,
    snapshot_of,
    writer_threads,
)

from lazycache.codec.dtypes import as_bytes
from lazycache.errors import CaptureError, CommitConflictError, LazycacheError, StorageError
from lazycache.types import RowBatch, RunInfo, SiteBlock, TableBlock


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """These tests are not about power cuts; syncing thousands of tiny files takes a minute."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Every test ends with the writer's threads joined."""
    yield
    assert writer_threads() == []


@pytest.fixture
def store(tmp_path):
    return new_store(tmp_path / "dataset")


class GatedStore(StoreAround):
    """Calls `before(path, buffers)` ahead of each write of a shard."""

    def __init__(self, inner, before) -> None:
        super().__init__(inner)
        self.before = before

    def create(self, path):
        return UploadAround(self.inner.create(path), lambda buffers: self.before(path, buffers))


class Gate:
    """A store that does not write before `open`."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, _path, _buffers) -> None:
        assert self.opened.wait(30)

    def open(self) -> None:
        self.opened.set()


class Broken:
    """Raises at the n-th write of a shard."""

    def __init__(self, error, *, at) -> None:
        self.error, self.left, self.lock = error, at, threading.Lock()

    def __call__(self, _path, _buffers) -> None:
        with self.lock:
            self.left -= 1
            if self.left < 0:
                raise self.error


def interrupt() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def write_until_error(writer) -> LazycacheError:
    with pytest.raises(LazycacheError) as caught:
        for number in range(10_000):
            writer.write(make_batch(number))
    return caught.value


# --- what is written ---


@settings(max_examples=25)
@given(
    commits=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    queue_bytes=st.sampled_from([1, 500, 4_000, 20_000, 1 << 20]),
    chunk_rows=st.sampled_from([5, 64, 8192]),
    shard_bytes=st.sampled_from([500, 3_000, 1 << 20]),
)
def test_any_sizes_store_every_batch_exactly(commits, queue_bytes, chunk_rows, shard_bytes):
    """Whatever the queue, chunk and shard sizes: all rows, in order, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(folder)
        writer = new_writer(
            store, queue_bytes=queue_bytes, chunk_rows=chunk_rows, shard_bytes=shard_bytes
        )
        number = 0
        for count in commits:
            for _ in range(count):
                writer.write(make_batch(number))
                number += 1
            assert writer.commit() == len(log_bodies(store))
        writer.close()
        snapshot = check_dataset(store, range(number))
        assert snapshot.version == sum(count > 0 for count in commits)
        assert data_files(store) == named_files(snapshot)
        if number:
            assert max(read_site(store, snapshot, "z_0").chunk_rows) <= chunk_rows


def test_every_file_is_read_by_every_parquet_reader(store):
    """Shards and tables of a real capture are plain Parquet for four readers."""
    writer = new_writer(store, chunk_rows=40, shard_bytes=4000)
    for number in range(12):
        writer.write(make_batch(number))
    writer.close()
    snapshot = snapshot_of(store)
    for name in SITES:
        expected = torch.cat([make_batch(n).sites[name].values for n in range(12)])
        for reader in READERS.values():
            paths = [store.local_path(shard.ref.path) for shard in snapshot.shards(name)]
            assert b"".join(value_bytes(reader(path)) for path in paths) == bytes(
                as_bytes(expected)
            )


def test_rows_that_a_site_lacks_are_not_covered(store):
    """A site that is missing from some batches covers exactly the rows of the others."""
    writer = new_writer(store)
    has = [True, False, False, True, True, False]
    for number, both in enumerate(has):
        sites = ["resid_out_0", "resid_out_1"] if both else ["resid_out_0"]
        writer.write(make_batch(number, sites=sites))
    writer.close()
    check_dataset(store, range(6), sites=["resid_out_0"])
    stored = read_site(store, snapshot_of(store), "resid_out_1")
    rows, expected, at = [], [], 0
    for number, both in enumerate(has):
        values = make_batch(number).sites["resid_out_1"].values
        if both:
            rows += range(at, at + len(values))
            expected.append(values)
        at += len(values)
    assert stored.rows.tolist() == rows
    assert torch.equal(stored.values, torch.cat(expected))


def test_tables_alone_can_be_written(store):
    """A batch may have rows and no site."""
    writer = new_writer(store)
    writer.write(make_batch(0, sites=[]))
    writer.close()
    assert snapshot_of(store).rows("examples") == 2


def test_columns_may_come_and_go(store):
    """A column that some batches lack is NULL in their rows."""
    writer = new_writer(store)
    for ids, more in [([0], {}), ([1], {"label": ["a"]}), ([2], {"label": [None]})]:
        writer.write(RowBatch({"examples": TableBlock(1, {"example": ids, **more})}, {}))
    writer.close()
    (file,) = snapshot_of(store).table_files("examples")
    assert file.ref.columns == {"example": "int64", "label": "string"}
    labels = READERS["pyarrow"](store.local_path(file.ref.path))["label"].to_pylist()
    assert labels == [None, "a", None]


def test_large_tables_become_several_files(store, monkeypatch):
    """Columns do not pile up until the commit: a file is written when there are enough."""
    monkeypatch.setattr("lazycache.writer.table_lane.FILE_BYTES", 4000)
    writer = new_writer(store)
    for number in range(20):
        writer.write(make_batch(number))
    writer.close()
    snapshot = check_dataset(store, range(20))
    assert len(snapshot.table_files("tokens")) > 3


def test_activations_are_written_from_the_memory_of_the_batch():
    """No second copy: the store is handed views of the very tensors that were given."""
    with tempfile.TemporaryDirectory() as folder:
        handed = []

        def note(path, buffers):
            handed.extend((np.frombuffer(b, np.uint8).ctypes.data, b.nbytes) for b in buffers)

        writer = new_writer(GatedStore(new_store(folder), note))
        batches = [make_batch(number, sites=["resid_out_0"]) for number in range(5)]
        for batch in batches:
            writer.write(batch)
        writer.close()
        for batch in batches:
            values = batch.sites["resid_out_0"].values
            start, stop = values.data_ptr(), values.data_ptr() + values.nbytes
            inside = sum(n for at, n in handed if start <= at < stop)
            assert inside == values.nbytes


def test_shards_end_at_their_size_and_chunks_at_their_rows(store):
    """A shard is not longer than asked, a chunk has not more rows than asked."""
    writer = new_writer(store, shard_bytes=5000, chunk_rows=50)
    for number in range(15):
        writer.write(make_batch(number))
    writer.close()
    snapshot = check_dataset(store, range(15))
    shards = snapshot.shards("z_0")
    assert len(shards) > 3
    assert all(shard.row_start % 50 == 0 for shard in shards)
    assert {chunk.rows for shard in shards[:-1] for chunk in shard.ref.chunks} == {50}
    payload = [sum(chunk.rows for chunk in shard.ref.chunks) * 24 for shard in shards]
    assert max(payload) <= 5000


def test_hundreds_of_sites_do_not_need_as_many_open_files(store):
    """Sites beyond the bound take turns: their shards end early, nothing is lost."""
    most, sites = 0, 300
    values = torch.arange(40.0).reshape(20, 2)

    def count(path, buffers):
        nonlocal most
        most = max(most, open_files())

    before = open_files()
    writer = new_writer(GatedStore(store, count), chunk_rows=5, queue_bytes=1 << 16)
    for start in (0, 20):
        table = TableBlock(20, {"example": np.arange(start, start + 20)})
        blocks = {f"s{i}": SiteBlock("examples", values + i + start) for i in range(sites)}
        writer.write(RowBatch({"examples": table}, blocks))
    writer.close()
    assert most - before <= 4 * 65 + 10
    snapshot = snapshot_of(store)
    for i in (0, 150, 299):
        got = read_site(store, snapshot, f"s{i}").values
        assert torch.equal(got, torch.cat([values + i, values + i + 20]))


# --- commits ---


def test_a_commit_without_new_rows_writes_no_record(store):
    """Committing twice gives one version; an empty writer commits nothing."""
    writer = new_writer(store)
    assert writer.commit() == 0
    writer.write(make_batch(0))
    assert writer.commit() == writer.commit() == 1
    writer.close()
    writer.close()
    assert len(log_bodies(store)) == 1


def test_a_commit_is_visible_when_it_returns(store):
    """Rows are in the log after `commit`, and not before."""
    writer = new_writer(store)
    writer.write(make_batch(0))
    assert snapshot_of(store).version == 0
    writer.commit()
    check_dataset(store, [0])
    writer.write(make_batch(1))
    check_dataset(store, [0])
    writer.close()
    check_dataset(store, [0, 1])


def test_commits_come_by_themselves_after_bytes(store):
    """Every `commit_bytes` a commit begins, without waiting for it."""
    writer = new_writer(store, commit_bytes=10_000)
    for number in range(40):
        writer.write(make_batch(number))
    writer.close()
    snapshot = check_dataset(store, range(40))
    assert 4 < snapshot.version < 40


def test_commits_come_by_themselves_after_time(store):
    """Rows are committed `commit_seconds` after they came, even if no batch follows."""
    writer = new_writer(store, commit_seconds=0.2)
    start = time.monotonic()
    writer.write(make_batch(0))
    while not log_bodies(store):
        assert time.monotonic() - start < 20
        time.sleep(0.01)
    assert time.monotonic() - start >= 0.2
    check_dataset(store, [0])
    time.sleep(0.5)
    assert len(log_bodies(store)) == 1  # nothing new: no further record
    writer.abort()


def test_runs_and_sites_are_declared_once(store):
    """The first commit of a run declares it and its sites; later ones and writers do not."""
    for number, name in enumerate(["a", "a", "b"]):
        writer = new_writer(store, run=RunInfo(name, {"n": number}))
        for part in range(2):
            writer.write(make_batch(2 * number + part))
            writer.commit()
        writer.close()
    ops = [[op["op"] for op in body["ops"]] for body in log_bodies(store)]
    assert [row.count("run") for row in ops] == [1, 0, 0, 0, 1, 0]
    assert [row.count("site") for row in ops] == [4, 0, 0, 0, 0, 0]
    snapshot = check_dataset(store, range(6))
    assert list(snapshot.runs) == ["a", "b"]


def test_two_writers_commit_side_by_side(store):
    """Writers of one dataset interleave their commits; none is lost."""
    writers = [new_writer(store, rank=rank, run=RunInfo(f"r{rank}", {})) for rank in range(2)]
    for number in range(6):
        for rank, writer in enumerate(writers):
            writer.write(make_batch(10 * rank + number))
            writer.commit()
    for writer in writers:
        writer.close()
    check_dataset(store, [10 * rank + number for number in range(6) for rank in range(2)])


def test_a_site_that_another_writer_just_declared_differently_is_a_conflict(store):
    """The first commit decides what a site is; the other writer's error says so."""
    first, second = new_writer(store), new_writer(store)
    rows = TableBlock(2, {"example": np.arange(2)})
    for writer, width in ((first, 3), (second, 4)):
        block = SiteBlock("examples", torch.zeros(2, width))
        writer.write(RowBatch({"examples": rows}, {"x": block}))
    first.close()
    with pytest.raises(CommitConflictError, match="'x'"):
        second.close()
    assert snapshot_of(store).sites["x"].shape == (3,)


# --- the queue ---


def test_writing_blocks_when_the_queue_is_full_and_goes_on_when_there_is_room(store):
    """Queued bytes stay within the budget while the store stands still."""
    gate = Gate()
    writer = new_writer(GatedStore(store, gate), queue_bytes=20_000)
    done = []

    def fill():
        for number in range(30):
            writer.write(make_batch(number))
            done.append(number)

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert 0 < len(done) < 30
    assert 0 < writer.progress.queued_bytes <= 20_000
    gate.open()
    thread.join(30)
    assert done == list(range(30))
    writer.close()
    assert writer.progress.queued_bytes == 0
    assert writer.progress.seconds_blocked > 0.3
    check_dataset(store, range(30))


def test_a_batch_larger_than_the_queue_goes_alone(store):
    """A queue of one byte lets every batch pass, one by one."""
    writer = new_writer(store, queue_bytes=1)
    for number in range(5):
        writer.write(make_batch(number, scale=20))
    writer.close()
    check_dataset(store, range(5), scale=20)


def test_open_chunks_are_written_when_only_they_fill_the_queue(store):
    """Rows that wait for more rows never block the rows that would come."""
    writer = new_writer(store, queue_bytes=30_000, chunk_rows=8192)
    for number in range(60):
        writer.write(make_batch(number))
    assert len(snapshot_of(store).commits) == 0
    writer.close()
    snapshot = check_dataset(store, range(60))
    assert len(read_site(store, snapshot, "resid_out_0").chunk_rows) > 3


def test_several_threads_may_write(store):
    """Batches of several threads are stored whole, in one order for all sites."""
    writer = new_writer(store, queue_bytes=8_000)

    def some(start):
        for number in range(start, start + 10):
            writer.write(make_batch(number))

    threads = [threading.Thread(target=some, args=(start,)) for start in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    writer.close()
    snapshot = snapshot_of(store)
    files = snapshot.table_files("examples")
    order = (np.concatenate([file.ref.examples for file in files])[::2] // 2).tolist()
    assert sorted(order) == [*range(10), *range(100, 110), *range(200, 210)]
    check_dataset(store, order)


def test_progress_counts_what_was_taken_and_what_is_committed(store):
    """Rows, bytes and commits add up."""
    writer = new_writer(store)
    batches = [make_batch(number) for number in range(4)]
    for batch in batches[:3]:
        writer.write(batch)
    writer.commit()
    writer.write(batches[3])
    rows = [sum(table.rows for table in batch.tables.values()) for batch in batches]
    progress = writer.progress
    assert (progress.rows, progress.committed_rows) == (sum(rows), sum(rows[:3]))
    assert progress.commits == 1
    assert progress.bytes > sum(batch.nbytes for batch in batches)
    assert progress.queued_bytes > 0  # the open chunks of the last batch
    writer.close()
    assert (writer.progress.committed_rows, writer.progress.queued_bytes) == (sum(rows), 0)


# --- errors ---


def test_a_full_disk_is_a_storage_error_and_keeps_what_was_committed(small_disk):
    """A disk that fills up: the caller hears of it, committed rows stay, leftovers are removed."""
    store = new_store(small_disk / "dataset")
    writer = new_writer(store)
    writer.write(make_batch(0, scale=100))
    writer.commit()
    for_ever = iter(range(1, 10_000))
    with pytest.raises(StorageError, match=r"(?i)space") as caught:
        while True:
            writer.write(make_batch(next(for_ever), scale=100))
    with pytest.raises(StorageError) as again:
        writer.commit()
    assert again.value is caught.value
    with pytest.raises(StorageError):
        writer.close()
    snapshot = check_dataset(store, [0], scale=100)
    assert data_files(store) == named_files(snapshot)


@pytest.mark.parametrize(
    "error", [StorageError("no space"), OSError(28, "no space"), RuntimeError("a bug")]
)
@pytest.mark.parametrize("at", [0, 5])
def test_an_error_of_a_thread_reaches_every_later_call(store, error, at):
    """The first error is raised by write, commit and close; no call blocks, no file is left."""
    writer = new_writer(GatedStore(store, Broken(error, at=at)), queue_bytes=5_000)
    raised = write_until_error(writer)
    assert isinstance(raised, StorageError)
    assert raised is error or raised.__cause__ is error
    for call in (lambda: writer.write(make_batch(0)), writer.commit, writer.close, writer.close):
        with pytest.raises(StorageError) as again:
            call()
        assert again.value is raised
    writer.abort()
    assert data_files(store) == set()
    assert snapshot_of(store).version == 0


def test_an_error_wakes_a_caller_that_waits_for_room(store):
    """A blocked `write` raises when the store fails; it does not wait for ever."""
    gate = Gate()
    broken = Broken(StorageError("server gone"), at=0)

    def both(path, buffers):
        gate(path, buffers)
        broken(path, buffers)

    writer = new_writer(GatedStore(store, both), queue_bytes=3_000)
    opener = threading.Timer(0.3, gate.open)
    opener.start()
    assert str(write_until_error(writer)) == "server gone"
    opener.join()
    writer.abort()


def test_a_failed_log_record_fails_the_commit_and_keeps_its_files(store):
    """Whether the record arrived is not known then: the files must stay."""

    class NoLog(StoreAround):
        def put_if_absent(self, _path, _data):
            raise StorageError("deadline passed")

    writer = new_writer(NoLog(store))
    writer.write(make_batch(0))
    with pytest.raises(StorageError, match="deadline"):
        writer.commit()
    with pytest.raises(StorageError, match="deadline"):
        writer.close()
    assert len(data_files(store)) == len(SITES) + 2


def test_abort_leaves_what_is_committed_and_nothing_else(store):
    """Files of batches that were not committed are gone, temporary ones included."""
    writer = new_writer(store, chunk_rows=10, shard_bytes=2000)
    for number in range(3):
        writer.write(make_batch(number))
    writer.commit()
    for number in range(3, 30):
        writer.write(make_batch(number))
    writer.abort()
    writer.abort()
    snapshot = check_dataset(store, range(3))
    assert data_files(store) == named_files(snapshot)
    with pytest.raises(CaptureError, match="aborted"):
        writer.write(make_batch(30))


def test_abort_ends_a_caller_that_waits_for_room(store):
    """Aborting from another thread: the blocked `write` raises."""
    gate = Gate()
    writer = new_writer(GatedStore(store, gate), queue_bytes=3_000)
    raised = []
    thread = threading.Thread(target=lambda: raised.append(write_until_error(writer)))
    thread.start()
    time.sleep(0.2)
    aborter = threading.Thread(target=writer.abort)
    aborter.start()
    thread.join(10)
    gate.open()
    aborter.join(10)
    assert "aborted" in str(raised[0])
    assert data_files(store) == set()


def test_a_closed_writer_takes_nothing(store):
    """Writing or committing after `close` is an error, not a silent loss."""
    writer = new_writer(store)
    writer.close()
    for call in (lambda: writer.write(make_batch(0)), writer.commit):
        with pytest.raises(CaptureError, match="closed"):
            call()


def test_a_refused_batch_leaves_the_writer_usable(store):
    """A batch that does not fit is not stored in part, and the next one is taken."""
    writer = new_writer(store)
    writer.write(make_batch(0))
    bad = make_batch(1)
    bad.sites["z_0"] = SiteBlock("tokens", torch.zeros(1, 9))
    with pytest.raises(CaptureError, match="z_0"):
        writer.write(bad)
    writer.write(make_batch(2))
    writer.close()
    check_dataset(store, [0, 2])


def test_ctrl_c_while_waiting_leaves_whole_batches(store):
    """An interrupted `write` queues its batch whole or not at all; the rest can be committed."""
    gate = Gate()
    writer = new_writer(GatedStore(store, gate), queue_bytes=3_000)
    written = []
    alarm = threading.Timer(0.4, interrupt)
    alarm.start()
    with pytest.raises(KeyboardInterrupt):
        for number in range(1000):
            writer.write(make_batch(number))
            written.append(number)
    alarm.join()
    gate.open()
    writer.close()
    check_dataset(store, written)


def test_ctrl_c_while_closing_still_commits_and_ends_the_threads(store):
    """An interrupted `close` leaves threads that commit what there is and end by themselves."""
    gate = Gate()
    writer = new_writer(GatedStore(store, gate))
    writer.write(make_batch(0))
    alarm = threading.Timer(0.3, interrupt)
    alarm.start()
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    alarm.join()
    gate.open()
    for thread in writer_threads():
        thread.join(10)
    assert writer_threads() == []
    check_dataset(store, [0])
    writer.close()


@pytest.mark.slow
def test_ctrl_c_at_any_moment_leaves_whole_batches(tmp_path):
    """Interrupts at random moments of `write` never store a part of a batch."""
    for attempt in range(12):
        store = new_store(tmp_path / str(attempt))
        writer = new_writer(store, queue_bytes=20_000)
        batches = [make_batch(number) for number in range(300)]
        alarm = threading.Timer(0.003 * attempt, interrupt)
        written = 0
        try:
            alarm.start()
            for batch in batches:
                writer.write(batch)
                written += 1
            alarm.join()
        except KeyboardInterrupt:
            pass
        alarm.join()
        writer.close()
        stored = snapshot_of(store).rows("examples") // 2
        assert stored in {written, written + 1}
        check_dataset(store, range(stored))


EXIT_SCRIPT = """
import sys, threading
from writer_helpers import *

class Stuck(StoreAround):
    def create(self, path):
        return UploadAround(self.inner.create(path), lambda b: threading.Event().wait())

writer = new_writer(Stuck(new_store(sys.argv[1])), chunk_rows=1)
writer.write(make_batch(0))
raise SystemExit(7)
"""


@pytest.mark.slow
def test_a_process_ends_although_the_store_hangs(tmp_path):
    """Threads of a writer that was not closed do not keep a dying process alive."""
    helpers = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", EXIT_SCRIPT, tmp_path / "d"],
        check=False,
        env={**os.environ, "PYTHONPATH": str(helpers)},
        timeout=60,
    )
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue_bytes", 0),
        ("shard_bytes", -1),
        ("chunk_rows", 0),
        ("commit_seconds", 0),
        ("rank", -1),
    ],
)
def test_sizes_that_make_no_sense_are_refused(store, name, value):
    """Sizes must be positive; the message names the argument."""
    with pytest.raises(CaptureError, match=name):
        new_writer(store, **{name: value})
