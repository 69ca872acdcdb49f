"""Going on in the middle of an epoch: bit for bit what would have come."""

import json
import os
import signal
import subprocess
import sys

import pytest
import rows_helpers
import torch

import lazycache as lc
from lazycache.errors import SelectionError
from lazycache.samples import small_cache

LENGTHS = (3, 1, 5, 2, 4, 6, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = rows_helpers.make(LENGTHS, runs=2)
    target = str(tmp_path_factory.mktemp("resume") / "ds")
    lc.copy(made.url, target)
    yield target
    rows_helpers.forget()


def same(mine, theirs):
    return all(
        torch.equal(a["x"], b["x"]) and a["token"] == b["token"]
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize("prefetch_bytes", [0, 100])
def test_a_state_of_any_batch_gives_the_rest(folder, prefetch_bytes):
    """Of the epoch and of the next one, through JSON, of the dataset opened anew."""
    options = {
        "columns": ["token"], "block_bytes": 24, "window_bytes": 96, "seed": 5,
        "prefetch_bytes": prefetch_bytes,
    }  # fmt: skip
    whole, states = [], []
    loader = lc.open(folder)["x"].loader(5, **options)
    for _ in range(2):
        states.append((len(whole), json.dumps(loader.state_dict())))
        for batch in loader:
            whole.append(batch)
            states.append((len(whole), json.dumps(loader.state_dict())))
    again = lc.open(folder)
    for done, state in states:
        resumed = again["x"].loader(5, **options)
        resumed.load_state_dict(json.loads(state))
        rest = []
        while resumed.epoch < 2:
            rest += list(resumed)
        assert same(rest, whole[done:])


KILLED = """
import json, os, sys, lazycache as lc
loader = lc.open(sys.argv[1])["x"].loader(4, columns=["token"], block_bytes=24, window_bytes=96)
for batch in loader:
    state = json.dumps(loader.state_dict())
    print(state, flush=True)
    if loader.state_dict()["batches"] == 3:
        os.kill(os.getpid(), 9)
"""


def test_a_killed_process_is_gone_on_with(folder):
    """From the last state that it wrote."""
    found = subprocess.run(
        [sys.executable, "-c", KILLED, folder],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    options = {"columns": ["token"], "block_bytes": 24, "window_bytes": 96}
    whole = list(lc.open(folder)["x"].loader(4, **options))
    loader = lc.open(folder)["x"].loader(4, **options)
    loader.load_state_dict(json.loads(found.stdout.splitlines()[-1]))
    assert same(list(loader), whole[3:])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "seed is 0 in the state and 1 here"),
        ({"batch_size": 3}, "batch_size is 2 in the state and 3 here"),
        ({"shuffle": False}, "order is 'blocks' in the state and 'stored' here"),
        ({"where": "position > 0"}, "rows is 6 in the state and 3 here"),
        ({"rank": 0, "world_size": 2}, "world_size is 1 in the state and 2 here"),
        ({"columns": ["example"]}, "columns"),
        ({"norm": "center"}, "norm"),
    ],
)
def test_a_state_of_something_else_is_refused(options, named):
    """What differs is named; the loader stays where it was."""
    x = small_cache()["resid_out_0"]
    state = x.loader(2).state_dict()
    other = x.loader(**{"batch_size": 2, **options})
    with pytest.raises(SelectionError, match=named):
        other.load_state_dict(state)
    assert len(list(other)) == len(other)


def test_a_state_of_another_dataset_is_refused():
    """Though everything else is the same."""
    state = small_cache()["resid_out_0"].loader(2).state_dict()
    with pytest.raises(SelectionError, match=r"datasets is \['[0-9a-f-]+ version 1'\]"):
        small_cache()["resid_out_0"].loader(2).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"epoch": 0}, {"epoch": -1, "batches": 0, "asked": {}}, 3])
def test_what_is_no_state_is_refused(state):
    """With what it should be."""
    with pytest.raises(SelectionError, match="state_dict"):
        small_cache()["resid_out_0"].loader(2).load_state_dict(state)
