"""Random histories of everything that looks after a dataset, against a list of what it must hold.

The model is a list of batches: commits add to it, `remove_run` takes away, the rest changes none.
"""

import random

import pytest
import torch
from care_helpers import add_commits, small_commits
from writer_helpers import make_batch

import lazycache as lc
from lazycache.care.removing import remove_run, seal
from lazycache.catalog import checkpoints
from lazycache.catalog.checkpoints import checkpoint
from lazycache.errors import LazycacheError, SelectionError
from lazycache.storage.local_store import LocalStore

SITES = ("resid_out_0", "pooled", "pattern_0")
CHECKED = SITES[:2]


class History:
    """A dataset, what it must hold, and what each of its versions has shown."""

    def __init__(self, folder, chance):
        self.parent, self.chance = folder, chance
        self.folder = folder / "0"
        self.store = small_commits(self.folder, [0], sites=SITES, run="a")
        self.batches = [("a", 0)]
        self.open_runs = ["a"]
        self.shown = {}
        self.checks = 0
        self.reader = lc.open(self.folder)

    def add(self):
        if not self.open_runs or self.chance.random() < 0.2:
            self.open_runs.append(f"run{self.number()}")
        run = self.chance.choice(self.open_runs)
        for _ in range(self.chance.randint(1, 3)):
            number = self.number()
            add_commits(self.store, [number], sites=SITES, run=run)
            self.batches.append((run, number))
            self.note()

    def number(self):
        return max([number for _, number in self.batches], default=0) + len(self.shown) + 1

    def compact(self):
        layout = self.chance.choice([None, None, "tile:2", "row"])
        sites = self.chance.choice([None, None, SITES[0]])
        lc.compact(self.folder, layout=layout, sites=sites)

    def remove(self):
        run = self.chance.choice([run for run, _ in self.batches])
        if len({run for run, _ in self.batches}) > 1:
            remove_run(self.folder, run)
            self.batches = [one for one in self.batches if one[0] != run]
            self.open_runs = [one for one in self.open_runs if one != run]

    def seal(self):
        run = self.chance.choice([run for run, _ in self.batches])
        seal(self.folder, run)
        self.open_runs = [one for one in self.open_runs if one != run]

    def collect(self):
        before = lc.open(self.folder)
        lc.gc(self.folder, grace_seconds=0, keep_versions=self.chance.randint(1, 6))
        self.same(before)

    def copy(self):
        self.folder = self.parent / str(len(list(self.parent.iterdir())))
        lc.copy(self.store.url, self.folder, progress=False)
        self.store = LocalStore(self.folder, create=False)
        self.reader = lc.open(self.folder)

    def pack(self):
        checkpoint(self.store)

    def note(self):
        """Keep what the newest version shows."""
        cache = lc.open(self.folder)
        self.shown[cache.snapshot.version] = contents(cache)

    def look(self):
        """Compare the newest version with the model, every other with what it showed once."""
        snapshot = lc.open(self.folder).snapshot
        self.reader.refresh()
        assert self.reader.snapshot.version == snapshot.version
        self.note()
        assert equal(contents(self.reader), self.model(list(snapshot.runs)))
        self.same(self.reader)
        for version, shown in self.shown.items():
            if version < snapshot.expired:
                with pytest.raises(SelectionError, match="expired"):
                    lc.open(self.folder, snapshot=version)
            else:
                assert equal(contents(lc.open(self.folder, snapshot=version)), shown)
                self.checks += 1

    def model(self, runs):
        """Rows in the order of the commits; of a row for each example, run by run."""
        by_run = sorted(self.batches, key=lambda one: (runs.index(one[0]), one[1]))
        return {
            name: torch.cat([make_batch(n, sites=[name]).sites[name].values for _, n in batches])
            for name, batches in zip(CHECKED, (self.batches, by_run), strict=True)
        }

    def same(self, cache):
        """What is open shows what it did, or says that its files have gone."""
        expected = self.shown.get(cache.snapshot.version)
        try:
            seen = contents(cache)
        except (LazycacheError, FileNotFoundError):
            assert lc.open(self.folder).snapshot.expired > cache.snapshot.version
        else:
            assert expected is None or equal(seen, expected)


def contents(cache):
    return {name: cache[name].rows.load() for name in CHECKED}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in CHECKED)


STEPS = ["add", "add", "add", "compact", "remove", "seal", "collect", "copy", "pack"]


def test_whatever_is_done_to_a_dataset_every_version_shows_what_it_did(
    tmp_path, monkeypatch, rounds, figures
):
    """After any order of captures, care and copies the newest version holds what the model says.

    Earlier versions show the same bits as when they were new, or are refused as expired.
    """
    monkeypatch.setattr(checkpoints, "EVERY", 5)
    checks = steps = 0
    for seed in range(rounds(1, 200)):
        chance = random.Random(seed)
        history = History(tmp_path / str(seed), chance)
        for _ in range(12):
            getattr(history, chance.choice(STEPS))()
            history.look()
            steps += 1
        assert lc.verify(history.folder, progress=False).ok
        checks += history.checks
    assert checks > steps
    figures.add("steps of random histories of captures and care", steps)
    figures.add("versions of them that were read and compared", checks)
