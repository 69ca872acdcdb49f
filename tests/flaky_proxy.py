"""A server between a client and a real one that makes what happens on a bad network happen.

`plan` is called with the method and path of every request and says what becomes of it: None or one
of `FAULTS`.
"""

import http.client
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("503", "slow down", "403", "drop", "lost answer", "cut short", "hang")
SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
)
HANG_SECONDS = 20.0


class Proxy(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, endpoint):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = endpoint.removeprefix("http://")
        self.plan = lambda _method, _path: None
        self.seen: list[tuple[str, str, str | None]] = []

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients go away in the middle: that is what they are tested for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.plan(self.command, self.path)
        self.server.seen.append((self.command, self.path, fault))
        if fault in ("503", "slow down", "403"):
            words = SLOW_DOWN if fault == "slow down" else b""
            return self.answer(403 if fault == "403" else 503, {}, words)
        if fault == "hang":
            time.sleep(HANG_SECONDS)
        if fault in ("drop", "hang"):
            return self.hang_up()
        status, headers, content = self.forwarded(body)
        if fault == "lost answer":
            return self.hang_up()
        if fault == "cut short":
            self.answer(status, headers, content[: len(content) // 2], length=len(content))
            return self.hang_up()
        return self.answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815 - its names

    def forwarded(self, body):
        behind = http.client.HTTPConnection(self.server.behind, timeout=30)
        try:
            behind.request(self.command, self.path, body=body, headers=dict(self.headers))
            answer = behind.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            behind.close()

    def answer(self, status, headers, content, *, length=None):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        head = {name.lower(): value for name, value in headers.items()}
        of_head = head.get("content-length", "0") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(of_head if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def hang_up(self):
        self.close_connection = True

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def flaky(endpoint):
    """A proxy before `endpoint`, which passes everything on until `plan` is set."""
    with Proxy(endpoint) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
