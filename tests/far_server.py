"""A server of files over HTTP that holds back its answers until many requests have come."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def holding_back(folder, at_once, seconds=10.0):
    """Serve a folder; yield its address and a list of how many ranges were asked for at once.

    An answer to a ranged read waits until `at_once` of them are open, or for some seconds.
    """
    seen, gate, enough = [0], threading.Condition(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            if "Range" in self.headers:
                with gate:
                    self.server.open += 1
                    seen[0] = max(seen[0], self.server.open)
                    if seen[0] >= at_once:
                        enough.set()
                enough.wait(seconds)
                with gate:
                    self.server.open -= 1
            self._answer(body=True)

        def _answer(self, body):
            path = folder / self.path.lstrip("/")
            data = path.read_bytes() if path.is_file() else None
            if data is None:
                self.send_response(404)
                data = b""
            elif "Range" in self.headers:
                start, _, stop = self.headers["Range"].removeprefix("bytes=").partition("-")
                whole = len(data)
                data = data[int(start) : int(stop) + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop}/{whole}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args):
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True
        open = 0

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()
