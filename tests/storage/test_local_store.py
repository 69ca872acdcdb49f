"""A folder as a store: durability, failures of the disk, unfinished files."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lazycache.errors import CorruptShardError, StorageError
from lazycache.storage.local_store import TEMPORARY, LocalStore

NOBODY = 65534


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "dataset", create=True)


def files(folder):
    return sorted(p.name for p in Path(folder).rglob("*") if p.is_file())


def test_create_makes_missing_folders(tmp_path):
    """The folder and its parents are made, and an existing one is fine."""
    LocalStore(tmp_path / "a/b/c", create=True)
    LocalStore(tmp_path / "a/b/c", create=True)
    assert (tmp_path / "a/b/c").is_dir()


def test_without_create_nothing_is_made(tmp_path):
    """Opening makes no folder, and writing into a folder that is not there is an error."""
    store = LocalStore(tmp_path / "gone", create=False)
    assert list(store.list("")) == []
    with pytest.raises(StorageError, match="not there"):
        store.put("a/b", b"x")
    assert not (tmp_path / "gone").exists()


def test_the_url_is_absolute(tmp_path, monkeypatch):
    """A relative path keeps meaning the same folder after the process changes its own."""
    monkeypatch.chdir(tmp_path)
    store = LocalStore("here", create=True)
    monkeypatch.chdir("/")
    store.put("a", b"x")
    assert store.url == str(tmp_path / "here")
    assert (tmp_path / "here/a").read_bytes() == b"x"


def test_every_write_is_synced_before_it_is_seen(store, monkeypatch):
    """File sync, then the name, then the sync of its folder: in that order, for every way in."""
    events = []
    real = {name: getattr(os, name) for name in ("fsync", "link")}
    replace = Path.replace

    def spy_fsync(fd):
        events.append("folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "file")
        real["fsync"](fd)

    def spy_link(a, b):
        events.append("name")
        real["link"](a, b)

    def spy_replace(self, target):
        events.append("name")
        return replace(self, target)

    store.put("x/first", b"")  # makes the folder
    monkeypatch.setattr("os.fsync", spy_fsync)
    monkeypatch.setattr("os.link", spy_link)
    monkeypatch.setattr(Path, "replace", spy_replace)
    for write in (store.put, store.put_if_absent):
        events.clear()
        write(f"x/{write.__name__}", b"data")
        assert events == ["file", "name", "folder"]


def test_new_folders_are_synced_in_their_parents(store, monkeypatch):
    """The name of a new folder is durable before an object is in it."""
    synced = []
    real = os.fsync

    def spy(fd):
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr("os.fsync", spy)
    store.put("a/b/c", b"x")
    assert synced[:2] == [store.url, f"{store.url}/a"]
    assert synced[-1] == f"{store.url}/a/b"


def test_unfinished_files_are_hidden_and_named_so(store):
    """A kill leaves a file that no listing shows and whose name says what it is."""
    upload = store.create("data/a")
    upload.write([memoryview(b"half")])
    assert [name.startswith(TEMPORARY) for name in files(store.url)] == [True]
    assert list(store.list("")) == []


def test_nothing_temporary_is_left_behind(store):
    """Wins, lost races and aborts remove their temporary files."""
    store.put("a", b"1")
    store.put_if_absent("b", b"1")
    store.put_if_absent("b", b"2")
    store.create("c").abort()
    assert files(store.url) == ["a", "b"]


def test_losing_a_race_after_the_look_is_no_error(store, monkeypatch):
    """When the object appears between the look and the link, the caller has lost, that is all."""
    store.put("a", b"theirs")
    monkeypatch.setattr(LocalStore, "exists", lambda *_: False)
    assert store.put_if_absent("a", b"mine") is False
    assert store.get("a") == b"theirs"
    assert files(store.url) == ["a"]


def test_short_writes_are_continued(store, monkeypatch):
    """The kernel may take any part of what is offered; every byte arrives, in order."""
    real = os.writev

    def reluctant(fd, buffers):
        joined = b"".join(buffers)
        return real(fd, [joined[: max(1, len(joined) // 3)]])

    monkeypatch.setattr("os.writev", reluctant)
    upload = store.create("a")
    upload.write([memoryview(bytes(range(i, i + 7))) for i in range(50)])
    upload.finish()
    assert store.get("a") == b"".join(bytes(range(i, i + 7)) for i in range(50))


def test_short_reads_are_continued(store, monkeypatch):
    """The kernel may hand out any part of a range; the range is whole all the same."""
    real = os.pread
    monkeypatch.setattr("os.pread", lambda fd, n, at: real(fd, min(n, 7), at))
    blob = bytes(range(100))
    store.put("a", blob)
    assert store.get_ranges("a", [(3, 90), (0, 100)]) == [blob[3:90], blob]
    with pytest.raises(StorageError, match="ends early"):
        store.get_ranges("a", [(95, 120)])


def test_a_full_disk_says_so_and_leaves_nothing(small_disk):
    """ENOSPC is told with its number and advice; the half-written file is gone, the rest stays."""
    store = LocalStore(small_disk / "dataset", create=True)
    store.put("kept", b"precious")
    with pytest.raises(StorageError, match="disk is full: free space") as caught:
        store.put("data/big", bytes(20 << 20))
    assert caught.value.errno == errno.ENOSPC
    upload = store.create("data/pieces")
    upload.write([memoryview(bytes(1 << 20))])
    with pytest.raises(StorageError, match="data/pieces"):
        upload.write([memoryview(bytes(1 << 20))] * 20)
    upload.abort()
    with pytest.raises(StorageError):
        store.put_if_absent("data/once", bytes(20 << 20))
    assert files(store.url) == ["kept"]
    assert store.get("kept") == b"precious"
    store.put("fits", bytes(4 << 20))  # the room came back


def test_a_read_only_disk_says_so(read_only_disk):
    """EROFS is told with its number and advice."""
    store = LocalStore(read_only_disk, create=True)
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StorageError, match="read-only") as caught:
            write("a", b"x")
        assert caught.value.errno == errno.EROFS
    with pytest.raises(StorageError, match="read-only"):
        store.create("data/a")
    with pytest.raises(StorageError, match="read-only"):
        LocalStore(read_only_disk / "new", create=True)
    assert list(store.list("")) == []


def test_a_forbidden_folder_says_so(tmp_path):
    """EACCES is told with its number and advice; as root the test is run as nobody."""
    store = LocalStore(tmp_path / "dataset", create=True)
    store.put("a", b"x")
    script = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from lazycache.errors import CorruptShardError, StorageError
from lazycache.storage.local_store import LocalStore
store = LocalStore("dataset", create=False)
if os.getuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
for call in (lambda: store.put("b", b"x"), lambda: store.create("c/d"), lambda: store.get("a")):
    try:
        call()
    except StorageError as exc:
        print(exc.errno, "Permission denied: check" in str(exc))
"""
    (tmp_path / "dataset/a").chmod(0o000)
    (tmp_path / "dataset").chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(0o755)
        if folder.name.startswith("pytest-of-"):
            break
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{errno.EACCES} True\n" * 3


def test_every_failure_of_the_disk_is_a_storage_error(store, monkeypatch):
    """A failing sync is an error of ours with its number; nothing is left or visible."""

    def fail(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    for write in (store.put, store.put_if_absent):
        with pytest.raises(StorageError, match="check the disk") as caught:
            write("a", b"x")
        assert caught.value.errno == errno.EIO
        assert isinstance(caught.value.__cause__, OSError)
    assert files(store.url) == []


def test_a_file_in_the_place_of_a_folder(tmp_path):
    """An address that is a file, or a file where a folder should be, is a clear error."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="exists"):
        LocalStore(tmp_path / "file", create=True)
    store = LocalStore(tmp_path / "file", create=False)
    with pytest.raises(StorageError, match="Not a directory"):
        store.get("lazycache.json")
    assert list(store.list("")) == []


def test_a_torn_object_where_links_are_impossible(store, monkeypatch):
    """Without links the one winner writes in place: if that fails, the name is taken for ever."""

    def no_links(a, b):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    real, calls = os.writev, []

    def fail_in_place(fd, buffers):
        calls.append(fd)
        if len(calls) > 1:  # the first fills the temporary file
            real(fd, [b"".join(buffers)[:3]])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers)

    monkeypatch.setattr("os.writev", fail_in_place)
    with pytest.raises(StorageError, match="disk is full"):
        store.put_if_absent("a", b"record")
    assert files(store.url) == ["a"]
    assert store.put_if_absent("a", b"other") is False
    assert store.get("a") == b"rec"


def reads(store, path):
    """Every way of reading an object, as functions without arguments."""
    return [
        lambda: store.get(path),
        lambda: store.get_ranges(path, [(0, 1)]),
        lambda: store.size(path),
    ]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused(store, make):
    """A pipe would be waited for, a folder is no object: both are damage, at once."""
    store.put("_log/other", b"x")
    make(Path(store.url) / "_log/record")
    if make is os.mkfifo:
        with pytest.raises(CorruptShardError, match="no regular file"):
            store.local_path("_log/record")
    for read in reads(store, "_log/record"):
        with pytest.raises(CorruptShardError, match="no regular file"):
            read()
    assert store.put_if_absent("_log/record", b"x") is False
    assert store.get("_log/other") == b"x"


def test_links_out_of_the_dataset_are_refused(store, tmp_path):
    """A linked file and a linked folder outside are neither read, nor written, nor deleted."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("data/a/b", b"x")
    (Path(store.url) / "data/linked").symlink_to(outside)
    (Path(store.url) / "data/a/file").symlink_to(outside / "secret")
    for path in ("data/linked/secret", "data/a/file"):
        for read in (*reads(store, path), lambda path=path: store.local_path(path)):
            with pytest.raises(CorruptShardError, match="link out of the dataset"):
                read()
    with pytest.raises(StorageError):
        store.put("data/linked/new", b"x")
    with pytest.raises(StorageError):
        store.delete("data/linked/secret")
    store.delete("data/a/file")
    assert files(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_links_inside_of_the_dataset_and_to_it_are_fine(store, tmp_path):
    """A folder that is reached through a link, and links between its own files."""
    store.put("data/a/b", b"x")
    (tmp_path / "link").symlink_to(store.url)
    (Path(store.url) / "data/again").symlink_to(Path(store.url) / "data/a")
    (Path(store.url) / "data/file").symlink_to(Path(store.url) / "data/a/b")
    linked = LocalStore(tmp_path / "link", create=False)
    assert [linked.get(f"data/{path}") for path in ("a/b", "again/b", "file")] == [b"x"] * 3


def test_each_folder_is_looked_at_once(store, monkeypatch):
    """A thousand objects of one folder cost one look at where the folder really is."""
    for number in range(20):
        store.put(f"_log/{number}", b"x")
    fresh, looks, real = LocalStore(store.url, create=False), [], os.path.realpath
    monkeypatch.setattr("os.path.realpath", lambda where: looks.append(where) or real(where))
    assert [fresh.get(f"_log/{number}") for number in range(20)] == [b"x"] * 20
    assert len(looks) == 2, "the folder, and the dataset's"
