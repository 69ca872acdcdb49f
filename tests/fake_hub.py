"""A Hub of this machine: the few answers of huggingface.co that reading a dataset needs."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPOSITORY = "me/acts"
_API = f"/api/datasets/{REPOSITORY}"
_TREE = f"{_API}/tree/main"
_FILES = f"/datasets/{REPOSITORY}/resolve/main/"


@contextmanager
def hub(folder):
    """Serve a folder as the dataset `me/acts`; gives the endpoint and the requests for files."""
    asked = []
    handler = type("Handler", (_Handler,), {"folder": folder, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path == _API:
            self.answer({"id": REPOSITORY, "sha": "a" * 40, "tags": []})
        elif path.startswith(_TREE):
            self.tree(self.folder / path.removeprefix(_TREE).strip("/"))
        elif path.startswith(_FILES):
            self.file(self.folder / path.removeprefix(_FILES))
        else:
            self.missing()

    def tree(self, where):
        if not where.is_dir():
            self.missing()
            return
        every = "recursive=true" in self.path.lower()
        paths = sorted(where.rglob("*") if every else where.iterdir())
        self.answer([self.entry(path) for path in paths])

    def entry(self, path):
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": "1" * 40, "size": path.stat().st_size, "path": name}

    def file(self, where):
        if not where.is_file():
            self.missing()
            return
        data, said = where.read_bytes(), self.headers.get("Range")
        self.asked.append((where.relative_to(self.folder).as_posix(), said))
        if said is None:
            self.send(data)
            return
        first, last = map(int, said.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        place = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        self.send(part, code=206, headers={"Content-Range": place})

    def missing(self):
        body = json.dumps({"error": "Entry not found"}).encode()
        self.send(body, code=404, headers={"X-Error-Code": "EntryNotFound"})

    def answer(self, found):
        self.send(json.dumps(found).encode())

    def send(self, data, *, code=200, headers=()):
        self.send_response(code)
        for name, value in {**dict(headers), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Say nothing."""
