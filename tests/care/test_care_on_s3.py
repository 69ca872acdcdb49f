"""Compacting and collecting in a bucket of a real server."""

import uuid

import s3fs
from care_helpers import add_commits
from writer_helpers import check_dataset, named_files

import lazycache as lc
from lazycache.catalog.identity import create_dataset
from lazycache.storage.open_store import open_store

SITES = ("resid_out_0", "pooled")


def test_a_bucket_is_compacted_and_collected(s3):
    """Few objects are left of many, with every row; orphans and unfinished uploads go."""
    url, options = s3.url(), s3.storage_options
    store = open_store(url, create=True, storage_options=options)
    create_dataset(store)
    add_commits(store, range(5), sites=SITES)
    orphan, foreign = f"data/pooled/{uuid.uuid4().hex}-r0.parquet", "data/pooled/notes.txt"
    for path in (orphan, foreign):
        store.put(path, b"12345")
    bucket = s3fs.S3FileSystem(**options)
    key = f"{url.removeprefix('s3://')}/data/pooled/{uuid.uuid4().hex}-r0.parquet"
    name, path = key.split("/", 1)
    bucket.call_s3("create_multipart_upload", Bucket=name, Key=path)
    done = lc.compact(url, storage_options=options, progress=False)
    check_dataset(store, range(5), sites=SITES)
    assert lc.gc(url, storage_options=options, progress=False).files == 0
    gone = lc.gc(url, storage_options=options, progress=False, grace_seconds=0)
    assert gone.files == done.replaced + 2
    assert [one.split()[0] for one in gone.paths if one.startswith("upload")] == ["upload"]
    assert lc.verify(url, storage_options=options, progress=False).ok
    snapshot = check_dataset(store, range(5), sites=SITES)
    assert named_files(snapshot) - {p for p, _ in snapshot.paths()} == set(
        gone.paths
    ) & named_files(snapshot)
    there = {info.path for info in store.list("") if not info.path.startswith("_log/")}
    assert there == {path for path, _ in snapshot.paths()} | {"lazycache.json", foreign}
