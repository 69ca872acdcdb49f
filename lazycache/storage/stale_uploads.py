"""Multipart uploads of a dataset that nobody finished or aborted: invisible, and paid for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lazycache.storage.failures import explained
from lazycache.storage.layout import FILE_PREFIXES
from lazycache.storage.open_store import Url
from lazycache.storage.retrying import Patience, patiently
from lazycache.storage.secrets import Secrets, shown_url


@dataclass(frozen=True, slots=True)
class StaleUpload:
    """An upload that was begun; its writer may still be at it."""

    path: str
    """Of the object that it would become, relative to the dataset."""
    begun: float
    """Seconds since the epoch, by the clock of the store."""
    id: str
    """What the store calls it."""


class StaleUploads:
    """The unfinished uploads of the dataset at a URL; none anywhere but on `s3://`.

    Example:
        >>> list(StaleUploads("memory://nothing", storage_options=None).list())
        []
    """

    def __init__(self, url: Url, *, storage_options: Mapping[str, Any] | None) -> None:
        options = storage_options or {}
        self._url = str(url)
        self._fs: Any = None
        self._secrets = Secrets(self._url, options)
        self._patience = Patience.of_environment()
        if self._url.startswith(("s3://", "s3a://")):
            from lazycache.storage.drivers import open_driver

            silence = self._patience.one_try
            self._fs, root = open_driver(
                self._url, shown_url(self._url), options, silence_s=silence
            )
            self._bucket, self._root, _ = self._fs.split_path(root.rstrip("/"))

    def list(self) -> Iterator[StaleUpload]:
        """Yield the uploads to files of the dataset: one request per 1,000.

        Raises:
            StorageError: the store failed, or does not allow to list uploads.
        """
        if self._fs is None:
            return
        marker: dict[str, str] = {}
        prefix = f"{self._root}/" if self._root else ""
        while True:
            page = self._ask("list_multipart_uploads", "list uploads of", Prefix=prefix, **marker)
            for upload in page.get("Uploads") or ():
                path = str(upload["Key"]).removeprefix(prefix)
                # some servers take a prefix for a hint only
                if str(upload["Key"]).startswith(prefix) and path.startswith(FILE_PREFIXES):
                    yield StaleUpload(path, upload["Initiated"].timestamp(), upload["UploadId"])
            if not page.get("IsTruncated"):
                return
            marker = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def abort(self, upload: StaleUpload) -> None:
        """Discard the parts of an upload; no error if it has ended meanwhile.

        Raises:
            StorageError: the store failed.
        """
        key = f"{self._root}/{upload.path}" if self._root else upload.path
        try:
            self._ask("abort_multipart_upload", "abort", Key=key, UploadId=upload.id)
        except FileNotFoundError:
            return

    def _ask(self, method: str, doing: str, **arguments: Any) -> dict[str, Any]:
        return patiently(lambda: self._asked(method, doing, arguments), patience=self._patience)

    def _asked(self, method: str, doing: str, arguments: dict[str, Any]) -> dict[str, Any]:
        url, limit = shown_url(self._url), self._patience.one_try
        with explained(
            doing,
            url=url,
            path=arguments.get("Key", "."),
            missing_ok=True,
            secrets=self._secrets,
        ):
            answer: dict[str, Any] = self._fs.call_s3(
                method, Bucket=self._bucket, timeout=limit, **arguments
            )
            return answer
