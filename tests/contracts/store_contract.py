"""What every store promises. A backend passes by subclassing with a `store` fixture."""

import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from lazycache.errors import StorageError

ESCAPES = ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "C:/x", "a\x00b", "a//b"]


class StoreContract:
    """Subclass as `Test...` and give a fixture `store` with an empty, writable store."""

    races = 20
    """How many names eight threads race for; servers that lock take seconds for each."""
    ranges = 1000
    """How many random ranges are read."""

    def test_an_object_comes_back(self, store):
        """What was put is got, in any folder, empty objects too."""
        store.put("a.bin", b"one")
        store.put("deep/er/b.bin", b"\x00\xff" * 1000)
        store.put("empty", b"")
        assert store.get("a.bin") == b"one"
        assert store.get("deep/er/b.bin") == b"\x00\xff" * 1000
        assert store.get("empty") == b""
        assert [store.size(p) for p in ("a.bin", "deep/er/b.bin", "empty")] == [3, 2000, 0]

    def test_put_replaces(self, store):
        """A second put wins, also when it is shorter."""
        store.put("a", b"long content")
        store.put("a", b"short")
        assert store.get("a") == b"short"

    def test_what_is_not_there_is_a_file_not_found_error(self, store):
        """Reading an object that is not there says so with the builtin error, not with ours."""
        for read in (store.get, store.size, lambda p: store.get_ranges(p, [(0, 1)])):
            with pytest.raises(FileNotFoundError) as caught:
                read("no/such")
            assert not isinstance(caught.value, StorageError)
        assert store.exists("no/such") is False

    def test_exists_means_objects_not_folders(self, store):
        """A folder is no object."""
        store.put("folder/a", b"x")
        assert store.exists("folder/a") is True
        assert store.exists("folder") is False

    def test_ranges_come_back_in_order(self, store):
        """Any order, repeats, overlaps and empty ranges; nothing of one range in another."""
        blob = bytes(range(256))
        store.put("blob", blob)
        ranges = [(200, 256), (0, 3), (1, 2), (0, 3), (7, 7), (0, 256)]
        assert store.get_ranges("blob", ranges) == [blob[a:b] for a, b in ranges]
        assert store.get_ranges("blob", []) == []

    def test_any_ranges(self, store):
        """Random ranges equal slices of the whole."""
        blob = bytes(range(99))
        store.put("blob", blob)
        random = Random(0)
        pairs = (sorted(random.choices(range(100), k=2)) for _ in range(self.ranges))
        asked = [(low, high) for low, high in pairs]
        assert store.get_ranges("blob", asked) == [blob[a:b] for a, b in asked]

    def test_a_range_beyond_the_end_is_an_error(self, store):
        """Fewer bytes than asked for are never returned silently."""
        store.put("blob", b"0123456789")
        with pytest.raises(StorageError, match="blob"):
            store.get_ranges("blob", [(0, 4), (8, 12)])
        with pytest.raises(StorageError, match="blob"):
            store.get_ranges("blob", [(20, 24)])

    def test_put_if_absent_never_replaces(self, store):
        """The first call creates, every later one returns False and changes nothing."""
        assert store.put_if_absent("log/1", b"first") is True
        assert store.put_if_absent("log/1", b"second") is False
        assert store.put_if_absent("log/1", b"first") is False
        assert store.get("log/1") == b"first"

    def test_put_if_absent_has_one_winner(self, store):
        """Of eight threads racing for a name exactly one wins, with its content."""
        for name in range(self.races):
            barrier = threading.Barrier(8)

            def race(i, path=f"race/{name}", barrier=barrier):
                barrier.wait()
                return store.put_if_absent(path, b"%d" % i)

            with ThreadPoolExecutor(8) as pool:
                won = list(pool.map(race, range(8)))
            assert won.count(True) == 1
            assert store.get(f"race/{name}") == b"%d" % won.index(True)

    def test_an_upload_is_invisible_until_it_is_finished(self, store):
        """Pieces join in order; before finish nothing can be seen, after it everything."""
        upload = store.create("data/a")
        upload.write([memoryview(b"abc"), memoryview(b""), memoryview(b"def")])
        assert store.exists("data/a") is False
        assert list(store.list("")) == []
        upload.write([memoryview(b"ghi")])
        upload.finish()
        assert store.get("data/a") == b"abcdefghi"
        upload.abort()
        assert store.get("data/a") == b"abcdefghi"

    def test_an_upload_may_reuse_its_buffers(self, store):
        """What was written is kept although the caller overwrites the buffer."""
        buffer = bytearray(b"first")
        upload = store.create("a")
        upload.write([memoryview(buffer)])
        buffer[:] = b"XXXXX"
        upload.finish()
        assert store.get("a") == b"first"

    def test_an_upload_of_many_and_shaped_buffers(self, store):
        """Thousands of buffers and buffers that are not bytes arrive as their bytes."""
        upload = store.create("a")
        upload.write([memoryview(b"%05d" % i) for i in range(3000)])
        upload.write([memoryview(bytes(range(24))).cast("i", [2, 3])])
        upload.finish()
        assert store.get("a") == b"".join(b"%05d" % i for i in range(3000)) + bytes(range(24))

    def test_an_upload_without_bytes(self, store):
        """An object of no bytes can be uploaded."""
        store.create("empty").finish()
        assert store.get("empty") == b""

    def test_an_aborted_upload_leaves_nothing(self, store):
        """Abort removes what was written, and can be called again."""
        upload = store.create("data/a")
        upload.write([memoryview(b"abc")])
        upload.abort()
        upload.abort()
        assert store.exists("data/a") is False
        assert list(store.list("")) == []

    def test_list_is_ordered_by_path_and_stays_below(self, store):
        """Objects of a folder and its folders, ordered as their whole paths are."""
        paths = ["a-b/x", "a.txt", "a/z", "a/b/c", "a0", "b/1", "ab/1"]
        for i, path in enumerate(paths):
            store.put(path, b"x" * i)
        found = list(store.list(""))
        assert [info.path for info in found] == sorted(paths)
        assert {info.path: info.size for info in found} == {p: i for i, p in enumerate(paths)}
        assert [info.path for info in store.list("a/")] == ["a/b/c", "a/z"]
        assert [info.path for info in store.list("a")] == ["a/b/c", "a/z"]
        assert list(store.list("none/")) == []
        assert list(store.list("a.txt")) == []

    def test_delete(self, store):
        """A deleted object is gone; deleting it again is no error, its neighbours stay."""
        store.put("f/a", b"1")
        store.put("f/b", b"2")
        store.delete("f/a")
        store.delete("f/a")
        assert store.exists("f/a") is False
        assert store.get("f/b") == b"2"

    @pytest.mark.parametrize("path", ESCAPES)
    def test_no_call_leaves_the_dataset(self, store, path):
        """Every call that takes a path refuses one that leads out."""
        calls = [
            store.get,
            store.size,
            store.exists,
            store.delete,
            store.create,
            store.local_path,
            lambda p: store.put(p, b""),
            lambda p: store.put_if_absent(p, b""),
            lambda p: store.get_ranges(p, [(0, 1)]),
        ]
        for call in calls:
            with pytest.raises(StorageError):
                call(path)

    def test_local_path_leads_to_the_same_bytes(self, store):
        """A store of this machine says where the file is; others say None."""
        store.put("f/a", b"here")
        where = store.local_path("f/a")
        assert where is None or where.read_bytes() == b"here"
