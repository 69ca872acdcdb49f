"""The stores against their contract."""

import uuid

import pytest
from contracts.store_contract import StoreContract

from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.local_store import LocalStore
from lazycache.storage.open_store import open_store


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path / "dataset", create=True)


class TestLocalStoreWithoutLinks(StoreContract):
    """A file system that has no hard links keeps the contract as well."""

    @pytest.fixture
    def store(self, tmp_path, monkeypatch):
        def refuse(source, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr("os.link", refuse)
        return LocalStore(tmp_path / "dataset", create=True)


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self):
        store = FsspecStore(f"memory://{uuid.uuid4().hex}/dataset", storage_options={})
        yield store
        for info in list(store.list("")):
            store.delete(info.path)


class TestMoto(StoreContract):
    """The S3 that AWS documents, with the retries that users get."""

    races, ranges = 5, 100

    @pytest.fixture
    def store(self, moto):
        return open_store(moto.url(), create=True, storage_options=moto.storage_options)


class TestSeaweedFS(StoreContract):
    """A real S3 server, with the retries that users get."""

    races, ranges = 3, 100

    @pytest.fixture
    def store(self, s3):
        return open_store(s3.url(), create=True, storage_options=s3.storage_options)
