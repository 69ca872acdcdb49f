"""Many processes commit into one dataset, locally and on S3, while a reader looks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from writers.storm import BATCH, SITES, ids_of, make_model, tokens_of, write

import lazycache as lc

TESTS = Path(__file__).parents[1]
LENGTH = len(tokens_of(0))
NAMES = [f"{site}:out" for site in SITES]


class Storm:
    """Writers that run, and what a reader has seen of them meanwhile."""

    def __init__(self, place, folder, *, writers, commits, kills, seed):
        self.url, self.options, environment = place
        self.writers, self.commits = writers, commits
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.model = make_model()
        self.looks = 0
        numbers = map(str, (writers, commits, kills, seed))
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "writers/storm.py"), self.url, str(self.notes), *numbers],
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Leave no process of a test that has failed."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def open(self, **options):
        return lc.open(self.url, storage_options=self.options, **options)

    def values(self, ids):
        """What a model gives for the examples, by site."""
        with torch.no_grad():
            first = self.model[0](torch.tensor([tokens_of(i) for i in ids]))
            return dict(zip(NAMES, (first, self.model[1](first)), strict=True))

    def look_until_the_end(self):
        """Open the dataset again and again; the codes with which the writers ended."""
        version = 0
        while self.process.poll() is None:
            try:
                with self.open() as cache:
                    assert cache.snapshot.version >= version, "a version is gone"
                    version = cache.snapshot.version
                    check_whole(cache.snapshot)
                    self.check_newest(cache)
                    self.looks += 1
            except lc.DatasetNotFoundError:
                pass
            time.sleep(0.05)  # the writers need the processor more
        out, errors = self.process.stdout.read(), self.process.stderr.read()
        assert self.process.returncode == 0, errors
        return json.loads(out), errors

    def check_newest(self, cache):
        """The rows of the last commit are those of one batch, bit for bit."""
        additions = cache.snapshot.additions
        if not additions:
            return
        start, stop = additions[-1].rows["tokens"]
        rows = cache[NAMES[0]].rows[start:stop]
        ids = list(dict.fromkeys(rows.column("example").tolist()))
        for name, expected in self.values(ids).items():
            found = cache[name].rows[start:stop].load()
            assert torch.equal(found, expected.reshape(found.shape))

    def told(self):
        """Batch to the version that its writer was told."""
        lines = [line for path in self.notes.iterdir() for line in path.read_text().splitlines()]
        told = dict(line.split() for line in lines)
        assert len(told) == len(lines), "one commit was acknowledged twice"
        return {batch: int(version) for batch, version in told.items()}


def check_whole(snapshot):
    """Every commit shows its batch whole: all rows of both tables, in both sites."""
    for addition in snapshot.additions:
        counts = {table: stop - start for table, (start, stop) in addition.rows.items()}
        assert counts == {"examples": BATCH, "tokens": BATCH * LENGTH}
    for name in snapshot.sites:
        assert snapshot.covered(name) == snapshot.rows("tokens")


def check_all(storm):
    """Every acknowledged batch is there once, and every value is that of the model."""
    with storm.open(check=True) as cache:
        check_whole(cache.snapshot)
        found = cache.sql("SELECT batch, list(example ORDER BY row) FROM examples GROUP BY batch")
        batches = dict(found.fetchall())
        for batch, ids in batches.items():
            rank, number = map(int, batch.split("-"))
            assert ids == ids_of(rank, storm.writers, number)
        assert storm.told().keys() <= batches.keys(), "an acknowledged batch is lost"
        ids = cache[NAMES[0]].rows.column("example")[::LENGTH]
        assert len(np.unique(ids)) == len(ids) == BATCH * len(batches)
        for name, expected in storm.values(ids.tolist()).items():
            rows = cache[name].rows.load()
            assert torch.equal(rows, expected.reshape(rows.shape))
        return batches


@pytest.fixture
def places(request, tmp_path):
    """A function of names: where writers meet, options of a reader, environment of writers."""

    def found(names):
        for name in names:
            folder = tmp_path / name
            folder.mkdir()
            if name == "local":
                yield folder, (str(folder / "acts"), None, {})
            else:
                bucket = request.getfixturevalue("s3")
                yield folder, (bucket.url(), bucket.storage_options, bucket.environment)

    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_row_once_and_every_snapshot_whole(places, rounds, figures):
    """Nobody is refused, nothing is lost, doubled or torn; on S3 too in the long form."""
    writers, commits = rounds(4, 8), rounds(8, 200)
    for folder, place in places(rounds(["local"], ["local", "s3"])):
        with Storm(place, folder, writers=writers, commits=commits, kills=0, seed=0) as storm:
            codes, errors = storm.look_until_the_end()
        assert codes == [0] * writers, errors
        batches = check_all(storm)
        assert len(batches) == len(storm.told()) == writers * commits
        assert storm.looks > 0
        figures.add("commits of processes side by side", len(batches))
        figures.add("snapshots read meanwhile", storm.looks)
        figures.add("torn rows visible", 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_minus_nine_of_half_the_writers_loses_nothing(places, rounds, figures):
    """What a killed writer was told stays, of the rest at most one batch is there, whole."""
    writers, commits = rounds(4, 8), rounds(8, 200)
    kills = writers // 2
    for folder, place in places(rounds(["s3"], ["local", "s3"])):
        with Storm(place, folder, writers=writers, commits=commits, kills=kills, seed=5) as storm:
            codes, errors = storm.look_until_the_end()
        killed = [rank for rank, code in enumerate(codes) if code == -signal.SIGKILL]
        assert 0 < len(killed) <= kills, codes
        assert set(codes) <= {0, -signal.SIGKILL}, errors
        batches = check_all(storm)
        unheard = [int(batch.split("-")[0]) for batch in batches.keys() - storm.told().keys()]
        assert len(unheard) == len(set(unheard))
        assert set(unheard) <= set(killed)
        figures.add("commits of processes side by side", len(batches))
        figures.add("writers killed while they commit", len(killed))
        figures.add("acknowledged rows lost", 0)
        figures.add("snapshots read meanwhile", storm.looks)
        figures.add("torn rows visible", 0)


def test_the_rank_of_a_killed_writer_goes_on(tmp_path):
    """A process that begins as the same rank counts on behind what that one has committed."""
    notes, url, model = tmp_path / "notes", str(tmp_path / "acts"), make_model()
    notes.mkdir()
    for _ in range(2):
        write(model, url, notes, 1, 3, 2)
    ids = lc.open(url).sql("SELECT example FROM examples ORDER BY row").fetchall()
    assert [i for (i,) in ids] == [1 + 3 * n for n in range(4 * BATCH)]
