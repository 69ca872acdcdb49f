"""`lazycache.json`."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from catalog_helpers import IDENTITY_RECORD

from lazycache.catalog.identity import check_decides, create_dataset, read_identity
from lazycache.errors import (
    CorruptShardError,
    DatasetExistsError,
    DatasetNotFoundError,
    FormatVersionError,
    StorageError,
)
from lazycache.storage.local_store import LocalStore
from lazycache.storage.open_store import open_store


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "dataset", create=True)


def test_what_is_created_is_read(store):
    """The identity comes back, and is JSON that says what the folder is."""
    identity = create_dataset(store)
    assert read_identity(store) == identity
    entry = json.loads(store.get("lazycache.json"))
    assert (entry["format"], entry["version"]) == ("lazycache", 1)
    assert entry["uuid"] == identity.uuid


def test_each_dataset_has_its_own_uuid(tmp_path):
    """Two datasets are never the same."""
    a, b = (create_dataset(LocalStore(tmp_path / name, create=True)) for name in "ab")
    assert a.uuid != b.uuid


def test_a_dataset_is_not_created_twice(store):
    """The second creation is refused and changes nothing."""
    identity = create_dataset(store)
    with pytest.raises(DatasetExistsError, match="already holds a dataset"):
        create_dataset(store)
    assert read_identity(store) == identity


def test_of_many_creators_one_wins(store):
    """Eight threads create at once: one dataset, seven errors that say so."""

    def create(_):
        try:
            return create_dataset(store)
        except DatasetExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [identity for identity in pool.map(create, range(8)) if identity]
    assert made == [read_identity(store)]


def test_a_folder_of_other_files_is_left_alone(store):
    """A folder with other things in it is named and refused."""
    for i in range(6):
        store.put(f"thesis/{i}.tex", b"x")
    with pytest.raises(DatasetExistsError, match=r"thesis/0\.tex.*thesis/3\.tex, \.\.\."):
        create_dataset(store)
    assert not store.exists("lazycache.json")


def test_no_dataset_says_what_is_there(store, tmp_path):
    """The error names some of what the folder holds, or that there is nothing."""
    with pytest.raises(DatasetNotFoundError, match="nothing is there"):
        read_identity(LocalStore(tmp_path / "gone", create=False))
    with pytest.raises(DatasetNotFoundError, match="nothing is there"):
        read_identity(store)
    store.put("model.safetensors", b"x")
    with pytest.raises(DatasetNotFoundError, match=r"it holds model\.safetensors"):
        read_identity(store)


def test_a_misspelt_folder_finds_the_datasets_beside_it(tmp_path):
    """Of the folders beside it, datasets with a like name are offered, and nothing else."""
    create_dataset(LocalStore(tmp_path / "acts-gpt2", create=True))
    (tmp_path / "acts-gpt3").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"is there\. Nearest beside it: acts-gpt2\.$"):
        read_identity(LocalStore(tmp_path / "act-gpt2", create=False))
    with pytest.raises(DatasetNotFoundError, match=r"nothing is there\.$"):
        read_identity(LocalStore(tmp_path / "thesis", create=False))


def test_a_newer_format_asks_for_an_upgrade(store):
    """A dataset of format 2 is not read as if it were 1."""
    store.put("lazycache.json", json.dumps({**IDENTITY_RECORD, "version": 2}).encode())
    with pytest.raises(FormatVersionError, match=r"format 2.*reads up to 1.*Upgrade"):
        read_identity(store)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**IDENTITY_RECORD, "format": "other"}).encode(),
        json.dumps({**IDENTITY_RECORD, "version": "1"}).encode(),
        json.dumps({**IDENTITY_RECORD, "uuid": ""}).encode(),
        json.dumps({**IDENTITY_RECORD, "created": 5}).encode(),
    ],
)
def test_a_damaged_identity_is_an_error(store, record):
    """Anything but an identity is named as damage."""
    store.put("lazycache.json", record)
    with pytest.raises(CorruptShardError, match=r"lazycache\.json"):
        read_identity(store)


def test_a_store_that_cannot_arbitrate_is_refused(store, monkeypatch):
    """A store that replaces what it should not is found out at creation, not by lost commits."""

    def careless(path, data):
        store.put(path, data)
        return True

    monkeypatch.setattr(store, "put_if_absent", careless)
    with pytest.raises(StorageError, match="lose each other's commits"):
        create_dataset(store)


def test_a_lost_answer_is_no_second_dataset(store, monkeypatch):
    """When the write arrived but its answer said no, it is recognised as ours."""
    real = store.put_if_absent

    def deaf(path, data):
        real(path, data)
        return False

    monkeypatch.setattr(store, "put_if_absent", deaf)
    assert create_dataset(store) == read_identity(store)


def test_a_dataset_that_is_removed_during_the_look_does_not_come_back(monkeypatch):
    """Its identity is made anew to find out who decides; it does not stay without its log."""
    store = open_store("memory://removed-during-the-look", create=True, storage_options=None)
    create_dataset(store)
    get = store.get

    def last_seen(path):
        record = get(path)
        store.delete(path)
        return record

    monkeypatch.setattr(store, "get", last_seen)
    with pytest.raises(DatasetNotFoundError, match="has just removed"):
        check_decides(store)
    assert list(store.list("")) == []
