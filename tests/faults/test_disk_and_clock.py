"""A disk that fills at any point, and a clock that goes backwards: no row is lost or doubled."""

import os
from datetime import UTC, datetime, timedelta

import pytest
from care_helpers import small_commits
from writer_helpers import check_dataset, make_batch, new_writer, snapshot_of

import lazycache as lc
from lazycache.errors import StorageError
from lazycache.writer import committer

SITES = ("resid_out_0", "pooled")
SPARE = (0, 4, 8, 12, 16, 20, 24, 32, 40, 48)
"""Kilobytes that are left: the disk is full in a shard, its statistics, a table, the record."""


def _fill(disk, spare):
    """Leave so many kilobytes of a disk; return the file that takes the others."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - (spare << 10))))
    return ballast


def _write(store, numbers):
    writer = new_writer(store)
    try:
        for number in numbers:
            writer.write(make_batch(number, sites=SITES))
            writer.commit()
    finally:
        writer.abort()


def test_a_disk_that_fills_anywhere_in_a_commit_shows_all_of_it_or_nothing(small_disk, figures):
    """Earlier batches stay, the one that found no room is not there, and can be written again."""
    store, batches = small_commits(small_disk / "acts", [0], sites=SITES), 1
    full = 0
    for spare in SPARE:
        ballast = _fill(small_disk, spare)
        try:
            _write(store, [batches])
        except StorageError as error:
            assert "disk is full" in str(error)  # noqa: PT017
            full += 1
        ballast.unlink()
        batches = snapshot_of(store).rows("examples") // 2
        check_dataset(store, range(batches), sites=SITES)
    _write(store, range(batches, batches + 1))
    check_dataset(store, range(batches + 1), sites=SITES)
    assert full >= len(SPARE) // 2
    figures.add("commits that a full disk ended", full)


def test_a_disk_that_fills_under_the_index_costs_no_answer(
    tmp_path, small_disk, monkeypatch, figures
):
    """SQL answers from memory, leaves nothing half written, and has a file once it fits."""
    monkeypatch.setenv("LAZYCACHE_CACHE_DIR", str(small_disk / "cache"))
    small_commits(tmp_path / "acts", range(3), sites=SITES)
    (small_disk / "cache").mkdir()
    for spare in (0, 16, 64):
        ballast = _fill(small_disk, spare)
        with lc.open(tmp_path / "acts") as cache:
            assert cache.sql("SELECT count(*) FROM examples").fetchall() == [(6,)]
        left = [path for path in small_disk.rglob("*") if path.is_file() and path != ballast]
        assert left == []
        ballast.unlink()
        figures.add("indexes that a full disk ended")
    with lc.open(tmp_path / "acts") as cache:
        assert cache.sql("SELECT count(*) FROM examples").fetchall() == [(6,)]
    assert len(list(small_disk.rglob("*.duckdb"))) == 1


class _Backwards:
    """A clock that shows an hour less at every look."""

    def __init__(self):
        self.shown = datetime.now(UTC)

    def now(self, zone):
        self.shown -= timedelta(hours=1)
        return self.shown.astimezone(zone)


def test_a_clock_that_goes_backwards_changes_no_order(tmp_path, monkeypatch, figures):
    """Versions, not times, say what is newest: of commits, of rows, and of index files."""
    monkeypatch.setattr(committer, "datetime", _Backwards())
    monkeypatch.setenv("LAZYCACHE_CACHE_DIR", str(tmp_path / "cache"))
    url = tmp_path / "acts"
    for number in range(4):
        store = small_commits(url, [number], sites=SITES)
        with lc.open(url) as cache:
            assert cache.sql("SELECT count(*) FROM examples").fetchall() == [(2 * number + 2,)]
            version = cache.snapshot.version
        newest = list(tmp_path.rglob(f"*-{version:020d}-*.duckdb"))
        assert len(newest) == 1, "the index of the newest version was taken for the oldest"
        later = newest[0].stat().st_mtime + 3600 * (9 - number)
        os.utime(newest[0], (later, later))  # the next one is written by an earlier clock
    times = [commit.time for commit in snapshot_of(store).commits]
    assert times == sorted(times, reverse=True)
    check_dataset(store, range(4), sites=SITES)
    figures.add("commits of a clock that goes backwards", len(times))


def test_a_clock_that_was_set_back_deletes_nothing(tmp_path, figures):
    """Files from the future may be those of a writer at work: `gc` says so and leaves them."""
    store = small_commits(tmp_path, range(2), sites=SITES)
    orphan = tmp_path / "data/resid_out_0/orphan.parquet"
    orphan.write_bytes(b"x")
    later = orphan.stat().st_mtime + 7200
    for path in tmp_path.rglob("*"):
        os.utime(path, (later, later))
    with pytest.warns(RuntimeWarning, match="set back"):
        done = lc.gc(tmp_path, grace_seconds=0, progress=False)
    assert done.files == 0
    assert orphan.exists()
    figures.add("collections that a clock which was set back ended")
    check_dataset(store, range(2), sites=SITES)
