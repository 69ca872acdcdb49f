"""Blocks of far files, kept on this machine: never wrong, never needed, never too many."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from block_cache_helpers import File, blocks_of, cached, content, taken
from counting_store import CountingStore
from hypothesis import given
from hypothesis import strategies as st

from lazycache.errors import CorruptShardError, StorageError
from lazycache.storage.block_cache import block_cache
from lazycache.storage.block_file import BLOCK_BYTES
from lazycache.storage.known_files import CachedFiles, StoredFiles, checked, known_files
from lazycache.storage.local_store import LocalStore

FILE = File("data/a.parquet", 100_003)
SCRIPT = Path(__file__).with_name("reading_script.py")


@pytest.fixture
def store(tmp_path):
    """A store that counts, with `FILE`."""
    store = CountingStore(LocalStore(tmp_path / "far", create=True))
    store.put(FILE.path, content(FILE))
    store.reset()
    return store


@pytest.fixture
def folder(tmp_path):
    """Where blocks are kept."""
    return tmp_path / "blocks"


def read(files, *ranges, file=FILE):
    """Read ranges, compare them with the file, and return what it took."""
    got = files.get_ranges(file, ranges)
    assert [bytes(part) for part in got.parts] == [content(file)[a:z] for a, z in ranges]
    return got


def test_what_was_read_is_not_asked_for_again(store, folder):
    """A second read asks for nothing, one that reaches further for the blocks it lacks."""
    files = cached(store, folder)
    got = read(files, (5000, 5010))
    assert (got.requests, got.nbytes, got.cached) == (1, 4096, 0)
    again = read(cached(store, folder), (4096, 8192))
    assert (again.requests, again.nbytes, again.cached) == (0, 0, 4096)
    more = read(files, (8191, 13_000))
    assert (more.requests, more.nbytes, more.cached) == (1, 2 * 4096, 4096)
    assert store.log[-1].ranges == ((8192, 16_384),)
    end = read(files, (FILE.length - 1, FILE.length), (3, 3))
    assert (end.requests, end.nbytes, end.cached) == (1, FILE.length % 4096, 0)


def test_a_part_that_is_here_divides_a_request_if_it_is_long(store, folder):
    """Up to 1 MiB in the middle is asked for again, more of it is not."""
    file = File("data/long", 4 << 20)
    store.put(file.path, content(file))
    for there, requests, nbytes in [(1 << 20, 1, 4 << 20), ((1 << 20) + 4096, 2, 3 << 20)]:
        files = cached(store, folder / str(there))
        read(files, (1 << 20, (1 << 20) + there), file=file)
        got = read(files, (0, file.length), file=file)
        assert (got.requests, got.nbytes) == (requests, nbytes - (4096 if requests == 2 else 0))


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, FILE.length), st.integers(0, 30_000)), min_size=1, max_size=4
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_reads_are_the_bytes_of_the_file(tmp_path_factory, reads):
    """Whatever was read before: the same bytes, and no request unless a block is not here yet."""
    base = tmp_path_factory.mktemp("any")
    store = CountingStore(LocalStore(base / "far", create=True))
    store.put(FILE.path, content(FILE))
    files, seen = cached(store, base / "blocks"), set()
    for wanted in reads:
        ranges = [(start, min(FILE.length, start + size)) for start, size in wanted]
        store.reset()
        got = read(files, *ranges)
        assert (got.requests, got.nbytes) == (store.requests, store.bytes)
        lacking = blocks_of(ranges) - seen
        assert lacking <= blocks_of([r for call in store.log for r in call.ranges])
        assert (store.requests == 0) == (not lacking)
        seen |= blocks_of(ranges)
    shutil.rmtree(base)


def test_another_file_of_the_same_path_is_read_anew(store, folder):
    """What the log says of a file is a part of its name here, and so is the dataset's address."""
    read(cached(store, folder), (0, FILE.length))
    other = File(FILE.path, FILE.length, crc=1)
    store.put(FILE.path, content(other))
    assert read(cached(store, folder), (0, FILE.length), file=other).requests == 1
    assert read(cached(store, folder), (0, FILE.length), file=other).requests == 0
    store.put(FILE.path, content(FILE))
    assert read(cached(store, folder, place="elsewhere"), (0, 10)).requests == 1


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "noise", "crcs"])
def test_damaged_blocks_are_asked_for_again(store, folder, damage):
    """Whatever becomes of the file here, what is read are the bytes there."""
    files = cached(store, folder)
    read(files, (0, FILE.length))
    (kept,) = folder.glob("[0-9a-f]*")
    data = bytearray(kept.read_bytes())
    if damage == "flipped":
        data[BLOCK_BYTES + 50_000] ^= 1
    elif damage == "crcs":
        data[:BLOCK_BYTES] = os.urandom(BLOCK_BYTES)
    else:
        data = {"cut": data[:60_000], "emptied": b"", "noise": os.urandom(len(data))}[damage]
    kept.write_bytes(data)
    first, second = read(files, (0, FILE.length)), read(files, (0, FILE.length))
    assert (first.requests, second.requests) == (1, 0)
    assert first.nbytes == 4096 if damage == "flipped" else first.nbytes > 4096


def test_bytes_that_are_not_what_the_log_says_are_not_kept(store, folder):
    """After a checksum that does not fit the store is asked once more, and then it is an error."""
    files = cached(store, folder)
    good = content(FILE)
    store.put(FILE.path, bytes(FILE.length))

    def whole():
        (data,) = files.get_ranges(FILE, [(0, FILE.length)]).parts
        if data != good:
            raise CorruptShardError("other bytes")
        return bytes(data)

    store.reset()
    with pytest.raises(CorruptShardError):
        checked(files, FILE, whole)
    assert store.requests == 2
    store.put(FILE.path, good)
    assert checked(files, FILE, whole) == good
    assert files.forget(FILE)
    assert not files.forget(FILE)


def test_the_files_used_longest_ago_go_first(store, folder):
    """Of more than there is room for, what is used stays, and the bound holds."""
    files = cached(store, folder, max_bytes=1 << 20)
    many = [File(f"data/{i}", 100_000) for i in range(30)]
    for file in many:
        store.put(file.path, content(file))
        assert read(files, (0, file.length), file=file).requests == 1
        assert read(files, (0, 1000), file=many[0]).requests == 0
        assert taken(folder) <= 1 << 20
    assert 5 <= len(list(folder.glob("[0-9a-f]*"))) <= 8
    assert read(files, (0, 100_000), file=many[-1]).requests == 0
    assert read(files, (0, 100_000), file=many[1]).requests == 1


def test_a_read_that_would_drive_out_the_rest_is_not_kept(store, folder):
    """More than a quarter of the bound at once is read and not kept."""
    files = cached(store, folder, max_bytes=200_000)
    assert [read(files, (0, FILE.length)).requests for _ in range(2)] == [1, 1]
    assert [read(files, (0, 40_000)).requests for _ in range(2)] == [1, 0]


def test_foreign_files_in_the_folder_are_left_alone(store, folder):
    """Eviction deletes files of blocks, and nothing else."""
    folder.mkdir()
    (folder / "notes.txt").write_bytes(bytes(1 << 20))
    files = cached(store, folder, max_bytes=400_000)
    for i in range(8):
        file = File(f"data/{i}", 90_000)
        store.put(file.path, content(file))
        read(files, (0, file.length), file=file)
    assert (folder / "notes.txt").stat().st_size == 1 << 20
    assert taken(folder) <= (1 << 20) + 400_000 + 4096


def gone(folder, _):
    shutil.rmtree(folder)


def a_file(folder, _):
    shutil.rmtree(folder)
    folder.write_text("")


def a_link(folder, tmp_path):
    (kept,) = folder.glob("[0-9a-f]*")
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")


def a_folder(folder, _):
    (kept,) = folder.glob("[0-9a-f]*")
    kept.unlink()
    kept.mkdir()


def a_pipe(folder, _):
    (kept,) = folder.glob("[0-9a-f]*")
    kept.unlink()
    os.mkfifo(kept)


@pytest.mark.parametrize("trouble", [gone, a_file, a_link, a_folder, a_pipe])
def test_reads_go_on_whatever_becomes_of_the_folder(store, folder, tmp_path, trouble):
    """A folder or file that vanishes, or is something else, costs requests and no error."""
    files = cached(store, folder)
    read(files, (0, FILE.length))
    trouble(folder, tmp_path)
    assert read(files, (0, 5000)).requests == 1
    assert read(files, (0, 5000)).requests == (0 if trouble is gone else 1)


def test_a_disk_that_may_not_be_written_costs_requests_only(store, read_only_disk):
    """Without a place to write there is no block cache."""
    files = cached(store, read_only_disk / "blocks")
    assert [read(files, (0, FILE.length)).requests for _ in range(2)] == [1, 1]


def test_a_full_disk_costs_requests_only(store, small_disk):
    """Half of what is free is left to others; when they have taken all, reads go on."""
    files = cached(store, small_disk / "blocks", max_bytes=1 << 30)
    many = [File(f"data/{i}", 500_000) for i in range(16)]
    for file in many:
        store.put(file.path, content(file))
        read(files, (0, file.length), file=file)
    assert taken(small_disk / "blocks") <= 4 << 20
    assert read(files, (0, 500_000), file=many[-1]).requests == 0
    with (small_disk / "of others").open("wb", buffering=0) as full, pytest.raises(OSError):
        while True:
            full.write(bytes(1 << 16))
    for file in (*many, FILE):
        read(files, (0, file.length), file=file)


def test_threads_that_read_at_once_get_their_bytes(store, folder):
    """One object for all threads, while files are evicted under them."""
    files = cached(store, folder, max_bytes=600_000)
    many = [File(f"data/{i}", 100_000) for i in range(12)]
    for file in many:
        store.put(file.path, content(file))
    wrong = []

    def look(seed):
        random = np.random.default_rng(seed)
        for _ in range(60):
            file, start = many[random.integers(12)], int(random.integers(99_000))
            (part,) = files.get_ranges(file, [(start, start + 1000)]).parts
            wrong.extend([file] if part != content(file)[start : start + 1000] else [])

    threads = [Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_processes_share_it_and_are_killed(tmp_path, rounds, figures):
    """Many fill and evict at once and half are killed: every byte is right, and the bound holds."""
    data, folder, bound = tmp_path / "far", tmp_path / "blocks", 2 << 20
    store = LocalStore(data, create=True)
    for i in range(20):
        file = File(f"file{i}", 150_000 + i)
        store.put(file.path, content(file))
    for turn in range(rounds(1, 20)):
        command = [sys.executable, str(SCRIPT), str(data), str(folder), str(bound)]
        readers = [
            subprocess.Popen(
                [*command, str(8 * turn + i), "0.8"],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
            )
            for i in range(4)
        ]
        for reader in readers:
            assert reader.stdout.readline() == "ready\n"
        for reader in readers[::2]:
            time.sleep(0.2)
            reader.kill()
        for i, reader in enumerate(readers):
            counts, _ = reader.communicate()
            if i % 2:
                assert reader.returncode == 0, counts
                compared, reused = map(int, counts.split())
                assert reused > 0
                figures.add("block cache: ranges compared", compared)
            else:
                figures.add("block cache: readers killed while filling")
        assert taken(folder) <= bound
    files = cached(store, folder, max_bytes=bound)
    for i in range(20):
        read(files, (0, 150_000 + i), file=File(f"file{i}", 150_000 + i))


def test_where_and_how_large_is_told_by_the_environment(tmp_path, monkeypatch):
    """A folder beside the indexes; 0 is off; what is no number of bytes is an error."""
    monkeypatch.setenv("LAZYCACHE_CACHE_DIR", str(tmp_path))
    far = CountingStore(LocalStore(tmp_path / "far", create=True))
    near = far.inner
    assert isinstance(known_files(far, uuid="u", storage_options=None), CachedFiles)
    assert isinstance(known_files(near, uuid="u", storage_options=None), StoredFiles)
    monkeypatch.setenv("LAZYCACHE_CACHE_BYTES", "0")
    assert isinstance(known_files(far, uuid="u", storage_options=None), StoredFiles)
    for wrong in ("4GiB", "-1", "1.5", "²"):
        monkeypatch.setenv("LAZYCACHE_CACHE_BYTES", wrong)
        with pytest.raises(StorageError, match="give a number of bytes"):
            block_cache()


def test_only_the_user_can_read_it(store, folder):
    """Values of a private bucket are not for other users of this machine."""
    read(cached(store, folder), (0, 10))
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
