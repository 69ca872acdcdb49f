"""Files that grow are on their way to the disk before they are synced."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest

from lazycache.storage import writeback
from lazycache.storage.local_store import LocalStore

MIB = 1 << 20


def test_every_byte_is_told_once_in_order_and_only_the_end_of_a_file_is_not(tmp_path: Path) -> None:
    """Ranges follow each other from 0 and have a MiB or more; what is left is below a MiB."""
    told: list[tuple[int, int, int]] = []

    def begin(_fd: int, start: int, count: int, flags: int) -> int:
        told.append((start, count, flags))
        return 0

    with mock.patch.object(writeback, "_begin", return_value=begin):
        upload = LocalStore(tmp_path, create=True).create("a")
        for size in (MIB // 2, MIB // 2, 3 * MIB, MIB - 1):
            upload.write([memoryview(bytes(size // 2)), memoryview(bytes(size - size // 2))])
        upload.finish()
    assert told == [(0, MIB, 2), (MIB, 3 * MIB, 2)]
    assert (tmp_path / "a").stat().st_size == 5 * MIB - 1


@pytest.mark.skipif(sys.platform != "linux", reason="the call is Linux's")
def test_the_call_takes_a_file_and_its_failure_stops_nobody(tmp_path: Path) -> None:
    """The system's own call says 0 of a file beyond 4 GiB; of what is no file, -1 and no error."""
    begin = writeback._begin()
    assert begin is not None
    with (tmp_path / "far").open("wb") as file:
        file.seek(5 << 30)
        file.write(b"end")
        file.flush()
        assert begin(file.fileno(), 5 << 30, 3, 2) == 0
    progress = writeback.Writeback()
    progress.wrote(-1, 2 * MIB)
    assert progress.begun == 2 * MIB
