"""Stores over fsspec: what the contract does not ask of every store."""

import errno
import threading
from datetime import UTC, datetime
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lazycache.errors import StorageError
from lazycache.storage.fsspec_store import FsspecStore, _modified


class ServerError(Exception):
    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class FakeBucket(MemoryFileSystem):
    """An object store in memory: creates atomically, streams uploads, fails on demand."""

    protocol = ("gs", "gcs")
    cachable = False
    status = None
    requests: ClassVar[list] = []

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if mode == "create" and type(self).status is not None:
            raise OSError(22, "unknown") from ServerError(type(self).status)
        super().pipe_file(path, value, mode=mode, **kwargs)

    def cat_ranges(self, paths, starts, ends, max_gap=None, on_error="return", **kwargs):
        assert max_gap is None, "s3fs does not implement it"
        assert on_error == "raise"  # and yet some hand errors back
        type(self).requests.extend(zip(starts, ends, strict=True))
        if any("broken" in path for path in paths):
            return [OSError(5, "Input/output error") for _ in paths]
        return super().cat_ranges(paths, starts, ends, on_error="return", **kwargs)

    def open(self, path, mode="rb", **kwargs):
        streamed = mode == "wb" and "data" not in kwargs
        return FakeUpload(self, path) if streamed else super().open(path, mode, **kwargs)


class FakeUpload:
    """As s3fs does it: visible when closed, and a forgotten one closes itself."""

    def __init__(self, fs, path):
        self.fs, self.path, self.closed, self.parts, self.discarded = fs, path, False, [], False

    def write(self, data):
        if b"fail" in bytes(data):
            raise OSError(28, "No space left on device")
        self.parts.append(bytes(data))

    def close(self):
        if not self.closed:
            self.closed = True
            self.fs.store[self.path] = memory_file(self.fs, self.path, b"".join(self.parts))

    def discard(self):
        self.discarded, self.parts = True, []

    __del__ = close


def memory_file(fs, path, data):
    from fsspec.implementations.memory import MemoryFile

    return MemoryFile(fs, path, data)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(FakeBucket, "store", {})
    monkeypatch.setattr(FakeBucket, "pseudo_dirs", [""])
    monkeypatch.setattr(FakeBucket, "status", None)
    monkeypatch.setattr(FakeBucket, "requests", [])
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda _, **__: (FakeBucket(), "/bucket/dataset"))
    return FsspecStore("gs://bucket/dataset", storage_options={})


def test_one_request_per_range_with_bytes(bucket):
    """Ranges are neither merged nor repeated, and no server is asked for nothing."""
    bucket.put("a", b"0123456789")
    bucket.get_ranges("a", [(0, 2), (5, 5), (2, 4)])
    assert FakeBucket.requests == [(0, 2), (2, 4)]


def test_errors_among_the_ranges_are_raised(bucket):
    """An error that fsspec hands back as if it were data is raised as ours."""
    bucket.put("broken", b"0123456789")
    with pytest.raises(StorageError, match="broken"):
        bucket.get_ranges("broken", [(0, 2)])
    with pytest.raises(FileNotFoundError):
        bucket.get_ranges("none", [(0, 2)])


@pytest.mark.parametrize("status", [409, 412])
def test_a_lost_race_by_http_status(bucket, monkeypatch, status):
    """Some servers' "exists already" arrives as a plain OSError: its cause tells."""
    monkeypatch.setattr(FakeBucket, "status", status)
    assert bucket.put_if_absent("a", b"x") is False


def test_any_other_status_is_an_error(bucket, monkeypatch):
    """A server error is never taken for a lost race."""
    monkeypatch.setattr(FakeBucket, "status", 503)
    with pytest.raises(StorageError):
        bucket.put_if_absent("a", b"x")


def test_a_streamed_upload_appears_when_finished(bucket):
    """Parts are invisible until finish."""
    upload = bucket.create("data/a")
    upload.write([memoryview(b"abc"), memoryview(b"def")])
    assert bucket.exists("data/a") is False
    upload.finish()
    upload.abort()
    assert bucket.get("data/a") == b"abcdef"


def test_an_aborted_stream_never_completes_itself(bucket):
    """Files of fsspec finish their upload when they are collected; after abort they must not."""
    upload = bucket.create("data/a")
    upload.write([memoryview(b"abc")])
    opened = upload._file
    upload.abort()
    upload.abort()
    del upload
    assert opened.discarded
    del opened
    assert bucket.exists("data/a") is False


def test_a_failing_stream_is_a_storage_error(bucket):
    """The error of a part comes out as ours, with its number."""
    upload = bucket.create("data/a")
    with pytest.raises(StorageError, match="disk is full") as caught:
        upload.write([memoryview(b"fail")])
    assert caught.value.errno == 28
    upload.abort()


def test_places_that_cannot_arbitrate_refuse_commits(tmp_path):
    """Local files of fsspec check and then write: two writers could both win, so neither may."""
    store = FsspecStore(f"file://{tmp_path}", storage_options={})
    store.put("a", b"x")
    assert store.get("a") == b"x"
    with pytest.raises(StorageError, match="only if there is none"):
        store.put_if_absent("b", b"x")


def test_no_secret_is_shown():
    """Users, passwords and signatures of an address are in no url, repr or error."""
    for address in (
        "memory://me:hunter2@box/d",
        "memory://box/d?sig=hunter2",
        "memory://d#hunter2",
    ):
        store = FsspecStore(address, storage_options={})
        with pytest.raises(StorageError) as caught:
            store.put("../x", b"")
        assert "hunter2" not in f"{store.url} {store!r} {caught.value}"
    with pytest.raises(StorageError) as caught:
        FsspecStore("nosuch://me:hunter2@box/d", storage_options={})
    assert "hunter2" not in str(caught.value)


def test_a_listing_survives_writers_beside_it():
    """Listing while others write neither fails nor invents."""
    store = FsspecStore("memory://busy-listing", storage_options={})
    stop = threading.Event()

    def write():
        i = 0
        while not stop.is_set():
            store.put(f"w/{i % 500}", b"x")
            store.delete(f"w/{(i * 7) % 500}")
            i += 1

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(50):
            assert all(info.path.startswith("w/") for info in store.list(""))
    finally:
        stop.set()
        for writer in writers:
            writer.join()
        for info in list(store.list("")):
            store.delete(info.path)


def test_modified_times_by_any_name():
    """Times come as datetimes or numbers under several names; 0.0 where there are none."""
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    assert _modified({"LastModified": moment}) == moment.timestamp()
    assert _modified({"mtime": 12}) == 12.0
    assert _modified({"created": "yesterday"}) == 0.0


def test_a_driver_that_asks_in_turn_is_asked_from_threads(tmp_path):
    """Of a driver without ranges of its own, several are on their way at once."""
    together = threading.Barrier(8, timeout=20)

    class InTurn(LocalFileSystem):
        protocol = "inturn"

        def cat_file(self, path, start=None, end=None, **options):
            together.wait()
            return super().cat_file(path, start, end, **options)

    fsspec.register_implementation("inturn", InTurn, clobber=True)
    (tmp_path / "a").write_bytes(bytes(range(80)))
    store = FsspecStore(f"inturn://{tmp_path}", storage_options={})
    ranges = [(10 * i, 10 * i + 10) for i in range(8)]
    assert store.get_ranges("a", ranges) == [bytes(range(a, b)) for a, b in ranges]


def test_a_file_system_that_only_reads_is_an_error_of_the_store(monkeypatch):
    """What a driver does not implement is told as a `StorageError`, whoever writes."""
    store = FsspecStore("memory://reads-only", storage_options={})

    def lacking(*_, **__):
        raise NotImplementedError("writing")

    monkeypatch.setattr(store._fs, "pipe_file", lacking)
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StorageError, match="writing") as caught:
            write("a", b"x")
        assert caught.value.errno == errno.ENOTSUP
