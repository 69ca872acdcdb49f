"""The stores against their contract."""

import uuid

import pytest
from contracts.store_contract import StoreContract

from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.local_store import LocalStore


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
