"""Datasets on plain web servers, with and without ranges, and what is told of them."""

import http.server
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import lazycache as lc
from lazycache.errors import DatasetNotFoundError, StorageError
from lazycache.samples import small_cache
from lazycache.storage.open_store import open_store


class Files(http.server.SimpleHTTPRequestHandler):
    """Python's own server: it lists folders as pages and does not know ranges."""

    requests: list = []  # noqa: RUF012 - one for all, as the server makes one of these per request

    def do_GET(self):
        self.requests.append((self.path, self.headers.get("Range")))
        super().do_GET()

    def list_directory(self, path):  # noqa: ARG002
        self.send_error(403, "no listings")

    def log_message(self, *_):
        """Say nothing."""


class Ranges(Files):
    """A server as buckets and nginx are: it answers `Range` with 206."""

    protocol_version = "HTTP/1.1"

    def send_head(self):
        asked, self.left = self.headers.get("Range"), None
        return super().send_head() if asked is None else self._opened(asked)

    def _opened(self, asked):
        source = Path(self.translate_path(self.path)).open("rb")  # noqa: SIM115 - closed by who sends it
        length = source.seek(0, 2)
        first, last = asked.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last) + 1, length)
        if start >= length:
            source.close()
            self.send_error(416)
            return None
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{length}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        source.seek(start)
        self.left = stop - start
        return source

    def copyfile(self, source, outputfile):
        outputfile.write(source.read() if self.left is None else source.read(self.left))


@contextmanager
def served(folder, handler):
    """The URL of a folder that a real web server serves."""
    kind = type("Handler", (handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=folder)) as it:
        it.daemon_threads = True
        thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{it.server_port}", kind.requests
        finally:
            it.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path):
    small_cache().save(tmp_path / "web" / "acts")
    return tmp_path / "web"


def test_a_dataset_is_read_over_http(folder):
    """Opened by its URL, without a listing; a row is the bytes of the row, by a range request."""
    with served(folder, Ranges) as (url, requests):
        cache = lc.open(f"{url}/acts")
        assert cache["resid_out_0"].rows[3].load().tolist() == [6.0, 7.0]
        (shard,) = {path for path, asked in requests if asked and path.startswith("/acts/data/")}
        assert "resid_out_0" in shard
        assert cache["resid_out_0"].rows.load().flatten().tolist() == list(range(12))


def test_the_log_is_found_without_a_listing(tmp_path):
    """However many records there are, the listing of the log has them all, and none twice."""
    log = tmp_path / "acts" / "_log"
    log.mkdir(parents=True)
    with served(tmp_path, Ranges) as (url, _):
        store = open_store(f"{url}/acts", create=False, storage_options=None)
        for count in (0, 1, 2, 3, 8, 13):
            for version in range(1, count + 1):
                (log / f"{version:020d}.json").write_bytes(b"{}")
            expected = [f"_log/{version:020d}.json" for version in range(1, count + 1)]
            assert [info.path for info in store.list("_log/")] == expected


def test_a_server_without_ranges_is_told_of(folder):
    """It would send whole files for every row: an error says so, and what to do."""
    with served(folder, Files) as (url, _):
        store = open_store(f"{url}/acts", create=False, storage_options=None)
        assert store.get("lazycache.json") == (folder / "acts/lazycache.json").read_bytes()
        with pytest.raises(StorageError, match="does not read ranges"):
            store.get_ranges("lazycache.json", [(0, 4)])


def test_a_web_server_is_only_read(folder):
    """Every way to write, and to list what cannot be listed, is refused before a request."""
    with served(folder, Ranges) as (url, requests):
        store = open_store(f"{url}/acts", create=True, storage_options=None)
        for write in (
            lambda: store.put("a", b""),
            lambda: store.put_if_absent("a", b""),
            lambda: store.create("a"),
            lambda: store.delete("a"),
            lambda: list(store.list("")),
        ):
            with pytest.raises(StorageError, match="web server"):
                write()
        assert requests == []


def test_what_is_not_there(folder):
    """A missing object is missing, a missing dataset is none, an absent server is an error."""
    with served(folder, Ranges) as (url, _):
        store = open_store(f"{url}/acts", create=False, storage_options=None)
        assert store.exists("none") is False
        assert store.exists("lazycache.json") is True
        for read in (store.get, store.size):
            with pytest.raises(FileNotFoundError) as caught:
                read("none")
            assert not isinstance(caught.value, StorageError)
        with pytest.raises(DatasetNotFoundError):
            lc.open(f"{url}/none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAZYCACHE_DEADLINE_SECONDS", "0")
        away = open_store(f"{url}/acts", create=False, storage_options=None)
        for look in (away.get, away.exists, away.size):
            with pytest.raises(StorageError, match="out of reach"):
                look("lazycache.json")


def test_an_address_with_a_query_is_refused():
    """What comes after `?` would be lost for the files of the dataset; it is not shown either."""
    with pytest.raises(StorageError, match="headers") as caught:
        open_store("https://host/acts?sig=hunter2", create=False, storage_options=None)
    assert "hunter2" not in str(caught.value)
