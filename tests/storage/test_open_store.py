"""From an address to a store."""

from pathlib import Path

import pytest

from lazycache.errors import StorageError
from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.local_store import LocalStore
from lazycache.storage.open_store import open_store


def test_paths_are_local(tmp_path, monkeypatch):
    """Strings, paths, relative paths, ~ and file:// all lead to a folder of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    addresses = [
        str(tmp_path / "a b"),
        tmp_path / "a b",
        "a b",
        "~/a b",
        f"file://{tmp_path}/a%20b",
        f"file://localhost{tmp_path}/a b",
    ]
    for address in addresses:
        store = open_store(address, create=False, storage_options=None)
        assert isinstance(store, LocalStore)
        assert store.url == str(tmp_path / "a b")
    assert not Path("a b").exists()
    open_store("a b", create=True, storage_options={"anything": 1})
    assert Path("a b").is_dir()


def test_other_protocols_go_to_fsspec():
    """memory:// is an fsspec store, with the options handed on."""
    store = open_store("memory://x", create=True, storage_options={"skip_instance_cache": True})
    assert isinstance(store, FsspecStore)
    assert store.url == "memory://x"


@pytest.mark.parametrize("address", ["", "nosuch://x", "file://otherhost/x"])
def test_what_cannot_be_opened_is_said(address):
    """No address, an unknown protocol and another machine's files are errors of ours."""
    with pytest.raises(StorageError):
        open_store(address, create=False, storage_options=None)


def test_a_missing_driver_is_named(monkeypatch):
    """When fsspec needs a package, the error names it."""

    def fail(url, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", fail)
    with pytest.raises(StorageError, match="Install s3fs"):
        open_store("s3://bucket/x", create=False, storage_options=None)
