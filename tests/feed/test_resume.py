"""Going on in the middle of an epoch: bit for bit what would have come."""

import json
import os
import signal

import pytest
import rows_helpers
import torch

import lazycache as lc
from lazycache.errors import SelectionError
from lazycache.feed import Norm
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_killed_process_is_gone_on_with(folder):
    """From the last state that it wrote."""
    options = {"block_bytes": 24, "window_bytes": 96}
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(30)
        loader = lc.open(folder)["x"].loader(4, **options)
        for _ in loader:
            os.write(writing, json.dumps(loader.state_dict()).encode() + b"\n")
            if loader.state_dict()["batches"] == 3:
                os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading) as written:
        states = written.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    whole = list(lc.open(folder)["x"].loader(4, **options))
    loader = lc.open(folder)["x"].loader(4, **options)
    loader.load_state_dict(json.loads(states[-1]))
    for mine, theirs in zip(loader, whole[3:], strict=True):
        assert torch.equal(mine, theirs)


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
    with pytest.raises(SelectionError, match=r"datasets is \['[0-9a-f-]+'\]"):
        small_cache()["resid_out_0"].loader(2).load_state_dict(state)


@pytest.mark.parametrize("state", [{}, {"epoch": 0}, {"epoch": -1, "batches": 0, "asked": {}}, 3])
def test_what_is_no_state_is_refused(state):
    """With what it should be."""
    with pytest.raises(SelectionError, match="state_dict"):
        small_cache()["resid_out_0"].loader(2).load_state_dict(state)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x * 2, lambda x: x * 3),
        (lambda x: x, lambda x: x * 1),
        (lambda x: x + torch.ones(3), lambda x: x + torch.arange(3)),
        (lambda x: x[..., :2], lambda x: x[..., 1:]),
        (lambda x: x.map(torch.relu), lambda x: x.map(torch.sigmoid)),
        (lambda x: x, lambda x: lc.ActivationCache({"x": x}).stack("x")["x"] - x),
    ],
    ids=["number", "computed", "tensor", "units", "function", "memory"],
)
def test_a_state_of_other_values_is_refused(folder, one, other):
    """Of the same rows, of which something else is taken; made again, it is the same."""
    state = one(lc.open(folder)["x"]).loader(5).state_dict()
    one(lc.open(folder)["x"]).loader(5).load_state_dict(json.loads(json.dumps(state)))
    with pytest.raises(SelectionError, match="values is"):
        other(lc.open(folder)["x"]).loader(5).load_state_dict(state)


def test_norms_are_told_apart_by_their_numbers(folder):
    """A norm that was handed in is part of what was asked for."""
    x = lc.open(folder)["x"]
    state = x.loader(5, norm=Norm(0.0, 2.0)).state_dict()
    x.loader(5, norm=Norm(0.0, 2.0)).load_state_dict(state)
    with pytest.raises(SelectionError, match="norm is"):
        x.loader(5, norm=Norm(0.0, 3.0)).load_state_dict(state)


def test_a_later_version_with_the_same_rows_goes_on(tmp_path):
    """A value or a site beside does not matter; with more rows, it says what to open."""
    url = str(tmp_path / "ds")
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))

    def more(**options):
        with lc.capture(model, url, "0:out", **options):
            model(torch.randn(20, 2))

    more()
    cache = lc.open(url)
    loader = cache["0:out"].loader(6)
    batches = iter(loader)
    next(batches)
    state, rest = loader.state_dict(), list(batches)
    cache["doubled"] = cache["0:out"] * 2
    cache.persist("doubled")
    for later in (lc.open(url), lc.open(lc.copy(url, str(tmp_path / "copy")).url)):
        assert later.version > 1
        again = later["0:out"].loader(6)
        again.load_state_dict(state)
        for mine, theirs in zip(again, rest, strict=True):
            assert torch.equal(mine, theirs)
    more(resume=True)
    said = r"rows is 20 in the state and 40 here.*version 1 \(lc\.open\(url, snapshot=\.\.\.\)\)"
    with pytest.raises(SelectionError, match=said):
        lc.open(url)["0:out"].loader(6).load_state_dict(state)
    old = lc.open(url, snapshot=1)["0:out"].loader(6)
    old.load_state_dict(state)
    assert len(list(old)) == len(rest)


def test_any_rank_takes_the_state_of_any(folder):
    """Also one that has a batch less: its epoch is over then."""
    x = lc.open(folder)["x"].where("example <> 0")[:, :1]
    ranks = [x.loader(1, rank=r, world_size=3) for r in range(3)]
    assert [len(one) for one in ranks] == [2, 2, 3]
    state = {**ranks[2].state_dict(), "batches": 3}
    for one in ranks:
        one.load_state_dict(state)
        assert (list(one), one.epoch) == ([], 1)
