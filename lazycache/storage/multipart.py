"""Multipart uploads to `s3://`: parts go out in the background, memory is bounded, abort cleans up.

An upload holds one part that fills. Full parts are sent by the event loop of fsspec while the
caller computes; at most `_IN_FLIGHT` parts of the process are on their way, then `write` waits. So
`n` open uploads hold at most `n + _IN_FLIGHT` parts. A part is 16 MiB when few uploads are open and
5 MiB, the least that S3 takes, when many are: 90 sites hold at most 490 MiB.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import Any, Protocol

from lazycache.errors import StorageError
from lazycache.storage.retrying import Patience, patiently
from lazycache.storage.transience import TRANSIENT, driver_errors, number_of

_LEAST = 5 << 20  # S3 takes no smaller part but the last
_MOST = 16 << 20
_ALL_OPEN = 256 << 20  # what the open uploads of a process share
_IN_FLIGHT = 8
_ABORT_S = 5.0  # a caller that fails is not held up for long
_PARTS_PER_SIZE = 1000  # S3 takes 10,000 parts: with every 1,000 they double, up to 5 TB

Explained = Callable[[str], AbstractContextManager[None]]


class Puts(Protocol):
    """A store, as far as a small upload needs it."""

    def put(self, path: str, data: bytes) -> None:
        """Write a whole object."""
        ...

    def size(self, path: str) -> int:
        """Bytes of an object."""
        ...


class _Process:
    """What all uploads of a process share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self.slots = threading.BoundedSemaphore(_IN_FLIGHT)

    def opened(self, change: int) -> None:
        with self._lock:
            self._open += change

    def part_bytes(self, parts: int) -> int:
        """How long the next part of an upload is that has sent `parts`."""
        base = max(_LEAST, min(_MOST, _ALL_OPEN // max(1, self._open)))
        return base << min(parts // _PARTS_PER_SIZE, 9)


_process = _Process()


class MultipartUpload:
    """An `Upload` to S3: one PUT if it stays below a part, a multipart upload otherwise.

    Costs one request per part, and two more where there are several parts.
    """

    def __init__(
        self, fs: Any, key: str, store: Puts, path: str, *, explained: Explained, patience: Patience
    ) -> None:
        self._fs, self._store, self._path = fs, store, path
        self._explained, self._patience = explained, patience
        bucket, name, _ = fs.split_path(key)
        self._where = {"Bucket": bucket, "Key": name}
        self._buffer = bytearray()
        self._id: str | None = None
        self._parts: list[Future[dict[str, Any]]] = []
        self._sent = 0
        self._ended = False
        _process.opened(1)

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Append a copy; waits only while too many parts are on their way."""
        assert not self._ended, "an upload ends with finish or abort"
        for view in buffers:
            left = view.cast("B") if view.nbytes else memoryview(b"")
            while left:
                room = _process.part_bytes(len(self._parts)) - len(self._buffer)
                # the size of parts may have shrunk below what is held: then it goes out as it is
                self._buffer += left[: max(0, room)]
                left = left[max(0, room) :]
                if len(self._buffer) >= _process.part_bytes(len(self._parts)):
                    self._send()

    def finish(self) -> None:
        """Send what is left and make the object visible, whole."""
        assert not self._ended, "an upload ends with finish or abort"
        if self._id is None:
            data = bytes(self._buffer)
            patiently(lambda: self._store.put(self._path, data), patience=self._patience)
        else:
            if self._buffer:
                self._send()
            self._complete()
        self._end()

    def abort(self) -> None:
        """Discard all parts: nothing was visible. A store that is gone keeps them for `gc`."""
        if self._ended:
            return
        self._end()
        for part in self._parts:
            part.cancel()
        wait(self._parts)  # a part that arrives after the abort would be kept, and paid for
        if self._id is not None:
            with suppress(StorageError, FileNotFoundError):  # what was to be told is told by now
                patiently(self._discard, patience=replace(self._patience, deadline=_ABORT_S))

    def _discard(self) -> None:
        self._request("abort", "abort_multipart_upload", UploadId=self._id)

    def _end(self) -> None:
        self._ended = True
        self._buffer = bytearray()
        _process.opened(-1)

    def _send(self) -> None:
        """Hand the full part to the event loop."""
        self._raise_failed()
        if self._id is None:
            answer = patiently(
                lambda: self._request("create", "create_multipart_upload"), patience=self._patience
            )
            self._id = str(answer["UploadId"])
        data, self._buffer = bytes(self._buffer), bytearray()
        _process.slots.acquire()
        part = asyncio.run_coroutine_threadsafe(
            self._arrived(len(self._parts) + 1, data), self._fs.loop
        )
        part.add_done_callback(lambda _: _process.slots.release())
        self._parts.append(part)
        self._sent += len(data)

    def _raise_failed(self) -> None:
        """Tell of a part that was lost now, not when the last one is written."""
        for part in self._parts:
            if part.done():
                with self._explained("write"):
                    part.result()

    def _arrived(self, number: int, data: bytes) -> Coroutine[Any, Any, dict[str, Any]]:
        return _sent(
            lambda: self._fs._call_s3(  # noqa: SLF001 - the one way to a request of S3's own
                "upload_part", **self._where, UploadId=self._id, PartNumber=number, Body=data
            ),
            number,
            patience=self._patience,
        )

    def _complete(self) -> None:
        with self._explained("write"):
            parts = [part.result() for part in self._parts]
        patiently(lambda: self._join(parts), patience=self._patience)

    def _join(self, parts: list[dict[str, Any]]) -> None:
        """Make the parts one object. After a lost answer S3 knows the upload no longer."""
        together = {"Parts": parts}
        try:
            self._request(
                "write", "complete_multipart_upload", UploadId=self._id, MultipartUpload=together
            )
        except StorageError:
            if not self._is_there():
                raise

    def _is_there(self) -> bool:
        """Whether the object is there: its name is unique, so it is this one."""
        try:
            return self._store.size(self._path) == self._sent
        except (FileNotFoundError, StorageError):
            return False

    def _request(self, doing: str, method: str, **arguments: Any) -> dict[str, Any]:
        with self._explained(doing):
            limit = self._patience.one_try
            answer: dict[str, Any] = self._fs.call_s3(
                method, **self._where, **arguments, timeout=limit
            )
            return answer


async def _sent(
    request: Callable[[], Coroutine[Any, Any, dict[str, Any]]], number: int, *, patience: Patience
) -> dict[str, Any]:
    """Send one part, again while it fails transiently: what S3 wants to hear of it at the end."""
    pauses = patience.pauses()
    while True:
        try:
            answer = await asyncio.wait_for(request(), patience.one_try + _MOST / (1 << 20))
        except driver_errors() as exc:
            pause = next(pauses, None) if number_of(exc) in TRANSIENT else None
            if pause is None:
                raise
        else:
            return {"PartNumber": number, "ETag": answer["ETag"]}
        await asyncio.sleep(pause)
