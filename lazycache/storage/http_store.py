"""A dataset on a plain web server, for reading: `http://` and `https://`.

Web servers do not list folders, or list them as pages for people. The only listing that reading
needs is that of the log, whose records are numbered without a hole: so it is found by asking for
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lazycache.errors import StorageError
from lazycache.storage.fsspec_store import FsspecStore
from lazycache.storage.layout import LOG_PREFIX, check_path, log_path
from lazycache.storage.store import ObjectInfo, Upload


class HttpStore(FsspecStore):
    """A `Store` that only reads, from a server that answers range requests."""

    def __init__(self, url: str, *, storage_options: Mapping[str, Any]) -> None:
        if "?" in url or "#" in url:
            raise StorageError(
                "The address of a folder of a web server has no `?` or `#`: what comes after them "
                "would be lost for the files in it. Pass keys as headers: storage_options="
                '{"client_kwargs": {"headers": {...}}}.'
            )
        super().__init__(url, storage_options=storage_options)

    def _info(self, path: str) -> dict[str, Any]:
        """What the server says of an object.

        Raises:
            StorageError: it does not say how long the object is.
        """
        info = super()._info(path)
        if info.get("size") is None:
            raise StorageError(f"The server of {self.url} does not say how long {path!r} is.")
        return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Records of the log, in order: about 2·log2(n) requests for n records, then one each.

        Sizes and times are not looked up: they are 0.

        Raises:
            StorageError: any other folder was asked for.
        """
        if prefix.rstrip("/") != LOG_PREFIX.rstrip("/"):
            raise StorageError(
                f"{self.url} is a web server: it does not list {prefix or 'its files'!r}. "
                "Copy the dataset to a disk or bucket first."
            )
        for version in range(1, self._last_version() + 1):
            yield ObjectInfo(path=log_path(version), size=0, modified=0.0)

    def _last_version(self) -> int:
        """The last number of which, and of all before, there is a record."""
        there, beyond = 0, 1
        while self.exists(log_path(beyond)):
            there, beyond = beyond, 2 * beyond
        while beyond - there > 1:
            middle = (there + beyond) // 2
            if self.exists(log_path(middle)):
                there = middle
            else:
                beyond = middle
        return there

    def put(self, path: str, data: bytes) -> None:  # noqa: ARG002 - refused
        """Refuse: a web server is read."""
        raise self._read_only(path)

    def put_if_absent(self, path: str, data: bytes) -> bool:  # noqa: ARG002 - refused
        """Refuse: a web server is read."""
        raise self._read_only(path)

    def create(self, path: str) -> Upload:
        """Refuse: a web server is read."""
        raise self._read_only(path)

    def delete(self, path: str) -> None:
        """Refuse: a web server is read."""
        raise self._read_only(path)

    def _read_only(self, path: str) -> StorageError:
        check_path(path)
        return StorageError(
            f"{self.url} is a web server, which can only be read: {path!r} was not written. "
            "Write to a local folder, s3://, gs:// or az://."
        )
