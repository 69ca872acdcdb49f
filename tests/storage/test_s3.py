"""Buckets: parts and aborts, bad networks, servers that do not arbitrate."""

import errno
import itertools
import time

import numpy as np
import pytest
import torch
from flaky_proxy import flaky

import lazycache as lc
from lazycache.catalog.identity import create_dataset
from lazycache.catalog.log import CommitLog
from lazycache.errors import StorageError
from lazycache.samples import small_cache
from lazycache.storage import multipart
from lazycache.storage.open_store import open_store
from lazycache.storage.stale_uploads import StaleUploads
from lazycache.types import Commit

MIB = 1 << 20


def opened(bucket, name="dataset", *, endpoint=None):
    options = bucket.storage_options | ({"endpoint_url": endpoint} if endpoint else {})
    return open_store(bucket.url(name), create=True, storage_options=options)


def draft(txn):
    return Commit(version=0, txn=txn, writer="me", time="2026-01-01", run="main")


def blob(length):
    return np.random.default_rng(length).bytes(length)


def first(count, fault, *, of=("GET", "HEAD", "PUT", "POST", "DELETE")):
    """A plan: the first `count` requests of these methods meet a fault."""
    left = itertools.count()
    return lambda method, _: fault if method in of and next(left) < count else None


@pytest.fixture
def patience(monkeypatch):
    """Set how long failing calls are tried again."""
    return lambda seconds: monkeypatch.setenv("LAZYCACHE_DEADLINE_SECONDS", str(seconds))


@pytest.fixture
def proxy(moto):
    with flaky(moto.endpoint) as proxy:
        yield proxy


@pytest.mark.parametrize("length", [MIB, 16 * MIB, 33 * MIB + 7], ids=["1M", "16M", "33M"])
def test_an_upload_of_any_length_comes_back(s3, length):
    """Less than a part, a part, several parts: the same bytes, and no upload is left."""
    bucket, data, store = s3, blob(length), opened(s3)
    upload = store.create("data/a/x")
    for start in range(0, length, 3 * MIB):
        upload.write([memoryview(data)[start : start + 3 * MIB]])
    assert not store.exists("data/a/x")
    upload.finish()
    upload.abort()
    assert store.get("data/a/x") == data
    uploads = StaleUploads(bucket.url(), storage_options=bucket.storage_options)
    assert list(uploads.list()) == []


@pytest.mark.parametrize("server", ["moto", "s3"])
def test_an_aborted_upload_leaves_neither_object_nor_parts(request, server):
    """Three parts were sent; after abort the server knows nothing of them."""
    bucket = request.getfixturevalue(server)
    store, uploads = (
        opened(bucket),
        StaleUploads(bucket.url(), storage_options=bucket.storage_options),
    )
    upload = store.create("data/a/x")
    upload.write([memoryview(blob(50 * MIB))])
    assert [stale.path for stale in uploads.list()] == ["data/a/x"]
    upload.abort()
    upload.abort()
    assert list(uploads.list()) == []
    assert list(store.list("")) == []


@pytest.mark.parametrize("server", ["moto", "s3"])
def test_a_forgotten_upload_is_found_and_removed(request, server):
    """What a killed writer left is listed with its time, and can be removed once or twice."""
    bucket = request.getfixturevalue(server)
    before = time.time()
    upload = opened(bucket).create("data/a/x")
    upload.write([memoryview(blob(17 * MIB))])
    opened(bucket, "other").create("data/a/y").write([memoryview(blob(17 * MIB))])
    uploads = StaleUploads(bucket.url(), storage_options=bucket.storage_options)
    (stale,) = uploads.list()
    assert stale.path == "data/a/x"
    if server == "s3":  # moto says 2010 of every upload
        assert abs(stale.begun - before) < 60
    uploads.abort(stale)
    uploads.abort(stale)
    assert list(uploads.list()) == []
    if server == "s3":  # moto answers 500, as if it would know the upload later
        with pytest.raises(StorageError):
            upload.finish()
    upload.abort()
    assert not opened(bucket).exists("data/a/x")


def test_open_uploads_share_their_memory():
    """Few uploads fill parts of 16 MiB, many of 5 MiB; a long object takes ever longer parts."""
    process = multipart._Process()
    lengths = {}
    for count in range(1, 91):
        process.opened(1)
        lengths[count] = process.part_bytes(0) / MIB
    assert (lengths[1], lengths[16], lengths[32], lengths[52], lengths[90]) == (16, 16, 8, 5, 5)
    assert sum(process.part_bytes(part) for part in range(10_000)) > 5e12  # what S3 holds at most


@pytest.mark.parametrize("fault", ["503", "slow down", "drop", "cut short"])
def test_reads_are_tried_again(moto, proxy, fault):
    """A server that fails three times is asked again; the caller gets the bytes."""
    store = opened(moto, endpoint=proxy.endpoint)
    store.put("a", bytes(range(256)) * 100)
    proxy.plan = first(3, fault, of=("GET",))
    assert store.get("a") == bytes(range(256)) * 100
    proxy.plan = first(3, fault, of=("GET",))
    assert store.get_ranges("a", [(3, 7), (256, 258)]) == [bytes([3, 4, 5, 6]), bytes([0, 1])]
    assert sum(met == fault for *_, met in proxy.seen) == 6


@pytest.mark.parametrize("fault", ["503", "drop", "lost answer"])
def test_writes_are_tried_again(moto, proxy, fault):
    """A put, a delete and the parts of an upload arrive over a bad network, once and whole."""
    store, data = opened(moto, endpoint=proxy.endpoint), blob(20 * MIB)
    proxy.plan = first(2, fault, of=("PUT",))
    store.put("a", b"bytes")
    assert store.get("a") == b"bytes"
    proxy.plan = first(3, fault)
    upload = store.create("b")
    upload.write([memoryview(data)])
    upload.finish()
    assert store.get("b") == data
    proxy.plan = first(2, fault, of=("DELETE",))
    store.delete("a")
    assert not store.exists("a")


def test_a_lost_answer_commits_once(moto, proxy):
    """The record arrives, its answer does not: the commit is there, once, and nobody is told no."""
    store = opened(moto, endpoint=proxy.endpoint)
    proxy.plan = first(1, "lost answer", of=("PUT",))
    create_dataset(store)
    for number, fault in enumerate(["lost answer", "503", "drop"], 1):
        proxy.plan = first(2, fault, of=("PUT",))
        log = CommitLog(store)
        assert log.append(draft(f"{number:02}"), base=number - 1, validate=None).version == number
    assert [commit.txn for commit in CommitLog(store).read()] == ["01", "02", "03"]


def test_what_is_refused_is_not_tried_again(moto, proxy):
    """Missing rights are told at once, with their errno; they are no missing object."""
    store = opened(moto, endpoint=proxy.endpoint)
    proxy.plan = lambda *_: "403"
    for call in (store.get, store.size, store.exists, lambda path: store.put(path, b"x")):
        began = len(proxy.seen)
        with pytest.raises(StorageError, match="ermission") as caught:
            call("a")
        assert caught.value.errno == errno.EACCES
        assert len(proxy.seen) - began == 1


def test_the_deadline_ends_it(moto, proxy, patience):
    """Where a server never works, the error comes soon after the deadline and says how often."""
    patience(1)
    store = opened(moto, endpoint=proxy.endpoint)
    proxy.plan = lambda *_: "503"
    for call in (store.get, store.exists, lambda path: store.create(path).finish()):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"Tried \w+.*LAZYCACHE_DEADLINE_SECONDS"):
            call("a")
        assert time.monotonic() - began < 10


def test_a_silent_server_is_left(moto, proxy, patience):
    """A server that takes a request and says nothing is asked again on another connection."""
    store = opened(moto)
    store.put("a", b"bytes")
    patience(4)
    store = opened(moto, endpoint=proxy.endpoint)
    proxy.plan = first(1, "hang", of=("GET",))
    began = time.monotonic()
    assert store.get("a") == b"bytes"
    assert time.monotonic() - began < 15


def captured(url, **options):
    """A capture of two rows."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    with lc.capture(model, url, "0", run="mine", **options):
        model(torch.randn(2, 2))


def test_a_server_that_does_not_arbitrate_is_read_only(rclone, tmp_path):
    """Where create-only puts overwrite, no dataset is made and no commit is added.

    A dataset that was copied there is read as anywhere.
    """
    store = opened(rclone)
    with pytest.raises(StorageError, match="replaces objects"):
        create_dataset(store)
    assert list(store.list("")) == []
    local = tmp_path / "dataset"
    small_cache().save(local)
    source = open_store(local, create=False, storage_options=None)
    for info in source.list(""):
        store.put(info.path, source.get(info.path))
    cache = lc.open(rclone.url(), storage_options=rclone.storage_options)
    assert cache["resid_out_0"].rows.load().flatten().tolist() == list(range(12))
    before = {info.path: store.get(info.path) for info in store.list("")}
    options = {"storage_options": rclone.storage_options}
    for write in (
        lambda: CommitLog(opened(rclone)).append(draft("aa"), base=1, validate=None),
        lambda: captured(rclone.url(), resume=True, **options),
        lambda: captured(rclone.url(), overwrite=True, **options),
        lambda: small_cache().save(rclone.url(), overwrite=True, **options),
    ):
        with pytest.raises(StorageError, match="replaces objects"):
            write()
        assert {info.path: store.get(info.path) for info in store.list("")} == before


def test_credentials_come_from_the_environment(s3, monkeypatch):
    """Without options the usual variables lead to the server, as users of fsspec expect."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    open_store(s3.url(), create=True, storage_options=None).put("a", b"x")
    assert opened(s3).get("a") == b"x"
