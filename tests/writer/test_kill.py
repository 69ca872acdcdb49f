"""SIGKILL at any moment: what is in the log is whole and exact, the rest is invisible."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from writer_helpers import (
    ARRAYS,
    EVERY_SITE,
    check_dataset,
    data_files,
    make_batch,
    named_files,
    new_writer,
    read_array,
    snapshot_of,
)

from lazycache.errors import DatasetNotFoundError
from lazycache.storage.local_store import LocalStore

KILLS = 24


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Stores of writers that were killed, each at another moment."""
    folder = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("kill_script.py")
    subprocess.run(
        [sys.executable, script, folder, str(KILLS), "11"],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        check=True,
        timeout=120,
    )
    return [LocalStore(folder / f"run{kill}", create=False) for kill in range(KILLS)]


def committed_batches(store) -> int:
    """Check that a dataset holds the first batches and the arrays, all exact; return how many."""
    rows = snapshot_of(store).rows("examples")
    assert rows % 2 == 0, "half a batch is visible"
    snapshot = check_dataset(store, range(rows // 2), sites=tuple(EVERY_SITE))
    assert set(snapshot.arrays("main")) == (set(ARRAYS) if rows else set())
    for name, tensor in ARRAYS.items() if rows else ():
        assert torch.equal(read_array(store, snapshot, name).nan_to_num(), tensor.nan_to_num())
    assert named_files(snapshot) <= data_files(store)
    return rows // 2


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_exact_batches(killed):
    """After kill -9 at 24 moments every log replays, and holds the first batches exactly."""
    counts = []
    for store in killed:
        try:
            counts.append(committed_batches(store))
        except DatasetNotFoundError:  # killed before there was one
            counts.append(0)
    assert sum(count > 0 for count in counts) >= KILLS // 2, counts


@pytest.mark.slow
def test_a_new_writer_goes_on_after_a_kill(killed):
    """The dataset of a killed writer takes further batches after its last whole one."""
    store = killed[max(range(KILLS), key=lambda kill: len(data_files(killed[kill])))]
    count = committed_batches(store)
    assert count > 0
    writer = new_writer(store, arrays=ARRAYS)
    for number in (count, count + 1):
        writer.write(make_batch(number, sites=tuple(EVERY_SITE)))
    writer.close()
    assert committed_batches(store) == count + 2
