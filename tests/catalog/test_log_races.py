"""The commit log under real processes, half of them killed."""

import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
from catalog.racing_writer import race
from catalog_helpers import plain, small_commit

from lazycache.catalog import records
from lazycache.catalog.log import CommitLog, create_dataset
from lazycache.catalog.snapshot import Snapshot
from lazycache.storage.layout import log_path
from lazycache.storage.local_store import TEMPORARY, LocalStore

TESTS = Path(__file__).parents[1]
WRITERS = 8


@pytest.fixture(scope="module")
def processes():
    """Makes processes that have imported what they need: they are forked from one that has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["catalog.racing_writer"])
    with pytest.MonkeyPatch.context() as patch:  # a preloading server does not get our sys.path
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *sys.path]))
        forkserver.ensure_running()
    return context


class Race:
    """Processes that commit to one dataset, and what each was told."""

    def __init__(self, processes, folder, *, commits, links):
        self.store = LocalStore(folder / "dataset", create=True)
        self.identity = create_dataset(self.store)
        self.notes = [folder / f"notes{i}" for i in range(WRITERS)]
        self.begin = [processes.Event() for _ in range(WRITERS)]
        self.writers = [
            processes.Process(
                target=race, args=(self.store.url, note, f"w{i}x", commits, links, begin)
            )
            for i, (note, begin) in enumerate(zip(self.notes, self.begin, strict=True))
        ]
        for writer in self.writers:
            writer.start()

    def start(self, *, writers=WRITERS):
        """Let the first so many writers begin, those of them that have not."""
        deadline = time.monotonic() + 60
        while not all(note.exists() and note.read_bytes() for note in self.notes):
            assert time.monotonic() < deadline, "the writers did not come up"
            time.sleep(0.01)
        for begin in self.begin[:writers]:
            begin.set()

    def kill(self, i):
        with suppress(ProcessLookupError):  # it was faster
            os.kill(self.writers[i].pid, signal.SIGKILL)

    def end(self):
        """Wait for all; the ones that were not killed must have succeeded."""
        codes = []
        for writer in self.writers:
            writer.join(timeout=120)
            codes.append(writer.exitcode)
            assert codes[-1] in {0, -signal.SIGKILL}
            writer.close()
        return codes

    def told(self):
        """What the writers were told: txn to version."""
        lines = [line for note in self.notes for line in note.read_text().splitlines()[1:]]
        told = dict(line.split() for line in lines)
        assert len(told) == len(lines), "one commit was acknowledged twice"
        return {txn: int(version) for txn, version in told.items()}


def check(there):
    """Every acknowledged commit is there exactly once and whole; all others whole or not at all."""
    log = CommitLog(there.store)
    commits = log.read()
    found = [commit for commit in commits if commit.txn]
    versions = {commit.txn: commit.version for commit in found}
    assert len(versions) == len(found), "a commit is in the log twice"
    told = there.told()
    assert {txn: versions.get(txn) for txn in told} == told
    for commit in found:
        i = int(commit.txn.partition("x")[2])
        expected = replace(small_commit(commit.txn, rows=1 + i % 5), version=commit.version)
        assert plain(commit) == plain(expected)
    snapshot = Snapshot.replay(there.identity, commits)
    assert snapshot.rows("examples") == len(found)
    assert snapshot.covered("resid_out_0") == snapshot.rows("tokens")
    return commits, told


@pytest.mark.filterwarnings("ignore:Log record .* is torn")  # without links they are seen so
@pytest.mark.parametrize("links", ["links", "no-links"])
def test_a_race_loses_nothing(processes, tmp_path, links):
    """Eight processes, twenty-five commits each: no hole, no double, and readers see prefixes."""
    there = Race(processes, tmp_path, commits=25, links=links)
    there.start(writers=1)
    log = CommitLog(there.store)
    while not (first := log.read()):  # one writer has begun, and the others wait for us
        time.sleep(0.001)
    seen = [[commit.txn for commit in first]]
    there.start(writers=WRITERS)
    while any(writer.is_alive() for writer in there.writers):
        seen.append([commit.txn for commit in log.read()])
    assert there.end() == [0] * WRITERS
    commits, told = check(there)
    assert len(commits) == len(told) == 25 * WRITERS
    order = [commit.txn for commit in commits]
    assert all(part == order[: len(part)] for part in seen), "a reader saw another order"
    assert 0 < len(seen[0]) < len(order), "the first look was during the race"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Log record .* is torn")
@pytest.mark.parametrize("links", ["links", "no-links"])
@pytest.mark.parametrize("seed", range(3))
def test_kill_minus_nine_of_half_the_writers(processes, tmp_path, links, seed):
    """SIGKILL at any moment: what was acknowledged stays, once; nothing is ever partial."""
    there = Race(processes, tmp_path, commits=60, links=links)
    chance = random.Random(seed)
    there.start()
    for i in chance.sample(range(WRITERS), WRITERS // 2):
        time.sleep(chance.uniform(0, 0.06))
        there.kill(i)
    codes = there.end()
    commits, told = check(there)
    assert WRITERS // 2 <= codes.count(0) < WRITERS, "somebody was killed while it wrote"
    assert len(told) >= 60 * codes.count(0)
    # at most one more commit per killed writer arrived without its acknowledgement
    unheard = [commit for commit in commits if commit.txn and commit.txn not in told]
    assert len(unheard) <= codes.count(-signal.SIGKILL)
    if links == "links":
        assert all(commit.txn for commit in commits), "a torn record on a file system with links"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Log record .* is torn")
def test_the_log_goes_on_after_every_kind_of_kill(processes, tmp_path, monkeypatch):
    """After kills, torn and temporary leftovers a new writer commits and a reader reads."""
    there = Race(processes, tmp_path, commits=1000, links="links")
    there.start()
    time.sleep(0.1)
    for i in range(WRITERS):
        there.kill(i)
    there.end()
    commits, _ = check(there)
    torn = records.encode(replace(small_commit("torn"), version=len(commits) + 1))[:-20]
    there.store.put(log_path(len(commits) + 1), torn)
    monkeypatch.setattr("lazycache.catalog.log._TORN_PATIENCE_S", 0.0)
    log = CommitLog(there.store)
    assert len(log.read()) == len(commits)
    mine = log.append(small_commit("w9x0", rows=1), base=0, validate=None)
    assert mine.version == len(commits) + 2
    assert [commit.txn for commit in log.read(after=len(commits))] == ["", "w9x0"]
    leftovers = [p.name for p in Path(there.store.url, "_log").iterdir()]
    shown = [info.path.removeprefix("_log/") for info in there.store.list("_log/")]
    assert sorted(n for n in leftovers if not n.startswith(TEMPORARY)) == shown
