"""`x.loader`: every row once, whatever it is asked of, in memory of the caller's own."""

import copy
import gc
import os
import signal
import threading

import numpy as np
import pytest
import rows_helpers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lazycache as lc
from lazycache.errors import LazycacheError, SelectionError, StorageError
from lazycache.feed import loader as loader_module
from lazycache.feed.prefetch import Ahead
from lazycache.samples import pattern_cache, small_cache

LENGTHS = (3, 1, 5, 2, 4, 6, 1, 2)


@pytest.fixture(scope="module")
def made():
    yield rows_helpers.make(LENGTHS, runs=2)
    rows_helpers.forget()


@pytest.fixture(scope="module")
def near(made, tmp_path_factory):
    """The same dataset as files of this machine."""
    folder = str(tmp_path_factory.mktemp("feed") / "ds")
    lc.copy(made.url, folder)
    with lc.open(folder) as cache:
        yield cache


def expected(x, loader, epoch=0):
    """Return the rows of an epoch as the order says, from what is loaded at once."""
    order = loader._feed.order.of_epoch(epoch, rank=loader.rank, world_size=loader.world_size)
    return x.rows.load()[torch.from_numpy(order.positions(0, loader.rows))]


@settings(max_examples=25)
@given(data=st.data())
def test_an_epoch_is_the_rows_in_the_order_that_was_computed(made, near, data):
    """Bit for bit, near and far, threads or none, any sizes; each row once, columns beside it."""
    x = data.draw(st.sampled_from([near["x"], made.shared["x"]]))
    batch = data.draw(st.integers(1, 30))
    loader = x.loader(
        batch,
        shuffle=data.draw(st.sampled_from([True, False, "rows"])),
        seed=data.draw(st.integers(0, 9)),
        columns=["example", "position"],
        block_bytes=12 * data.draw(st.integers(1, 6)),
        window_bytes=12 * data.draw(st.integers(1, 30)),
        prefetch_bytes=data.draw(st.sampled_from([0, 1, 200, 1 << 20])),
    )
    batches = list(loader)
    assert [len(b["x"]) for b in batches[:-1]] == [batch] * (len(loader) - 1)
    rows = torch.cat([b["x"] for b in batches])
    assert torch.equal(rows, expected(x, loader))
    stored = {row.numpy().tobytes(): n for n, row in enumerate(x.rows.load())}
    numbers = [stored[row.numpy().tobytes()] for row in rows]
    assert sorted(numbers) == list(range(sum(LENGTHS)))
    for name in ("example", "position"):
        told = torch.cat([b[name] for b in batches])
        assert told.tolist() == x.rows.column(name)[numbers].tolist()


@pytest.mark.parametrize(
    "selected",
    [
        lambda c: c["x"][..., 1:],
        lambda c: c["x"][..., 0],
        lambda c: c["x"][:, -1],
        lambda c: c["x"].where("position > 0"),
        lambda c: c["x"] - 2 * c["x"],
        lambda c: c["x"].sample(9),
        lambda c: c["x"].rows[::-2],
        lambda c: c["pooled"],
        lambda c: c["partial"],
        lambda _: lc.ActivationCache({"x": torch.randn(20, 3)}).stack("x")["x"],
    ],
    ids=["units", "unit", "last", "where", "computed", "sample", "reversed", "pooled", "partial",
         "memory"],
)  # fmt: skip
@pytest.mark.parametrize("shuffle", [True, False, "rows"])
def test_whatever_has_rows_is_fed(near, selected, shuffle):
    """Views with units, conditions, formulas, pooled rows, tensors in memory."""
    x = selected(near)
    loader = x.loader(5, shuffle=shuffle, block_bytes=24, window_bytes=96)
    assert torch.equal(torch.cat(list(loader)), expected(x, loader))


def test_several_sites_are_of_the_same_rows(near):
    """By name in a dict, or behind each other in a stack; the order is that of one."""
    cache = pattern_cache()
    pair = list(cache.loader(["z_0", "head_out_0"], 4))
    for batch in pair:
        z, out = batch["z_0"], batch["head_out_0"]
        assert torch.equal(out[:, 0, 0], z[:, 0, 0])
        assert torch.equal(out[:, 1, 1], z[:, 1, 0])
    x = near["x"]
    stack = lc.ActivationCache({"a": x, "b": x * 2}).stack("a", "b")
    rows = torch.cat(list(stack.loader(5, seed=3)))
    assert rows.shape == (sum(LENGTHS), 2, 3)
    assert torch.equal(rows[:, 1], rows[:, 0] * 2)
    assert stack.loader(5).row_shape == (2, 3)


def test_sites_with_other_rows_are_refused():
    """Named, before anything is read."""
    cache = rows_helpers.make(LENGTHS, uncovered=1).shared
    with pytest.raises(SelectionError, match="'x' and 'partial' cannot be fed together"):
        cache.loader(["x", "partial"], 4)


def test_a_batch_is_the_callers_own(near):
    """What is written to it reaches neither the file nor another batch."""
    x = near["x"]
    before = x.rows.load().clone()
    for shuffle in (True, False, "rows"):
        loader = x.loader(3, shuffle=shuffle)
        for batch, wanted in zip(loader, expected(x, loader).split(3), strict=True):
            assert torch.equal(batch, wanted)
            batch.fill_(7)
    assert torch.equal(x.rows.load(), before)


def test_values_are_converted_and_normed(near):
    """Of the stored dtype unless it is said; norms give float32."""
    x = near["x"]
    (batch,) = x.loader(100, shuffle=False, dtype=torch.float64)
    assert batch.dtype == torch.float64
    loader = x.loader(100, norm="center")
    (batch,) = loader
    assert loader.dtype == batch.dtype == torch.float32
    assert torch.allclose(batch.mean(0), torch.zeros(3), atol=1e-6)
    (batch,) = x.loader(100, shuffle=False, norm=lambda values: values + 1)
    assert torch.equal(batch, x.rows.load() + 1)


def test_every_iteration_is_the_next_epoch(near):
    """Also behind one that was broken off; a number that is set is the next one."""
    loader = near["x"].loader(5, block_bytes=12)
    first = [torch.cat(list(loader)) for _ in range(2)]
    assert loader.epoch == 2
    assert not torch.equal(*first)
    next(iter(loader))
    assert loader.epoch == 2
    assert torch.equal(torch.cat(list(loader)), expected(near["x"], loader, epoch=3))
    loader.epoch = 1
    assert torch.equal(torch.cat(list(loader)), first[1])


def test_a_dataloader_without_workers_hands_the_batches_on(near, monkeypatch):
    """With workers it is refused, in words that say what to write instead."""
    loader = near["x"].loader(5, seed=4)
    wrapped = torch.utils.data.DataLoader(loader, batch_size=None)
    assert len(wrapped) == len(loader)
    assert torch.equal(torch.cat(list(wrapped)), expected(near["x"], loader))
    # no worker is started for it: torch waits five seconds for one that has failed
    monkeypatch.setattr(loader_module, "get_worker_info", object)
    with pytest.raises(SelectionError, match="num_workers=0"):
        iter(loader)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"shuffle": "row"}, "shuffle"),
        ({"block_bytes": 0}, "block_bytes"),
        ({"window_bytes": 1.5}, "window_bytes"),
        ({"prefetch_bytes": -1}, "prefetch_bytes"),
        ({"columns": "example"}, "columns"),
        ({"columns": {"resid_out_0": "example"}}, "resid_out_0"),
        ({"columns": ["exampel"]}, "example"),
        ({"where": "exampel = 1"}, "example"),
        ({"where": "example < 0"}, "no row"),
        ({"norm": "centre"}, "center"),
        ({"seed": 0.5}, "seed is a whole number"),
        ({"rank": 0.0, "world_size": 1}, "rank is a whole number"),
    ],
)
def test_what_does_not_fit_is_said_at_once(options, said):
    """Before anything is read, with what would fit."""
    cache = small_cache()
    with pytest.raises(LazycacheError, match=said):
        cache["resid_out_0"].loader(**{"batch_size": 2, **options})
    assert cache.io.bytes == 0


def test_rows_of_other_widths_and_single_rows_are_refused():
    """Attention patterns, and what is no tensor of rows."""
    with pytest.raises(SelectionError, match="differ in width"):
        pattern_cache()["pattern_0"].loader(2)
    with pytest.raises(SelectionError, match="one row"):
        small_cache()["resid_out_0"][0, 0].loader(2)


def feeding():
    return [
        t for t in threading.enumerate() if t.name.startswith("lazycache-feed") and t.is_alive()
    ]


def test_threads_end_with_who_uses_them(near):
    """When the loop is left, by `close`, and when an epoch is over."""
    x = near["x"]
    with x.loader(1, prefetch_bytes=64) as loader:
        batches = iter(loader)
        next(batches)
        assert feeding()
    assert not feeding()
    with pytest.raises(StorageError, match="closed"):
        next(batches)
    batches = iter(x.loader(1, prefetch_bytes=64))
    next(batches)
    del batches
    gc.collect()
    for thread in feeding():
        thread.join(5)
    assert not feeding()
    list(x.loader(3))
    assert not feeding()


def test_an_error_ahead_comes_out_once(near):
    """After the batches before it; then there are none."""
    calls = []

    def fails(values):
        calls.append(len(values))
        if len(calls) == 3:
            raise ValueError("the third")
        return values

    loader = near["x"].loader(2, norm=fails, prefetch_bytes=30)
    batches = iter(loader)
    assert [len(next(batches)) for _ in range(2)] == [2, 2]
    with pytest.raises(ValueError, match="the third"):
        next(batches)
    assert not feeding()
    # what is left would be other rows than the state says
    for _ in range(2):
        with pytest.raises(StorageError, match="an error ended it"):
            next(batches)
    assert loader.state_dict()["batches"] == 2
    loader.load_state_dict(loader.state_dict())
    assert torch.equal(torch.cat(list(loader)), expected(near["x"], loader)[4:])


def test_no_more_is_held_than_was_allowed():
    """An item is begun when there is room for it."""
    begun = []

    def items():
        for number in range(10):
            begun.append(number)
            yield number

    with Ahead(items(), most=2, name="feed-test") as ahead:
        assert next(ahead) == 0
        deadline = threading.Event()
        while len(begun) < 3:
            deadline.wait(0.001)
        deadline.wait(0.02)
        assert len(begun) == 3
        assert list(ahead) == list(range(1, 10))


def test_a_loader_says_what_it_is(near):
    """Sites, rows, batches, order, bytes; and pickles as an address."""
    loader = near["x"].loader(5, columns=["example"], rank=1, world_size=2)
    assert repr(loader) == (
        "Loader(x, example: 12 rows in 3 batches of 5, blocks of 1 rows, shuffled in windows "
        "of 4,194,304, rank 1 of 2, 144 bytes)"
    )
    twin = copy.deepcopy(loader)
    for mine, other in zip(loader, twin, strict=True):
        assert torch.equal(mine["x"], other["x"])
    assert np.array_equal(loader.asked()["sites"], ["x"])


def test_functions_give_a_row_for_each_in_float32(near):
    """Unless a dtype is asked for; a function that leaves rows out is told."""
    halves = rows_helpers.make(LENGTHS, dtype=torch.bfloat16).shared["x"]
    loader = halves.loader(24, shuffle=False, norm=lambda rows: rows)
    (batch,) = loader
    assert batch.dtype == loader.dtype == torch.float32
    assert torch.equal(batch, halves.rows.load().float())
    with pytest.raises(SelectionError, match=r"gave \[3, 3\] for 24 rows"):
        next(iter(near["x"].loader(24, norm=lambda rows: rows[:3])))
    # of a stack, a norm of one layer makes all of it float32
    both = lc.ActivationCache({"a": halves, "b": halves}).stack("a", "b")
    loader = both.loader(24, norm={"b": "center"})
    assert next(iter(loader)).dtype == loader.dtype == torch.float32
    assert loader.norm["a"] is None


def test_sites_of_examples_lack_the_same_ones():
    """Rows that one site lacks would move its others beside rows of other examples."""

    def beside(without_p, without_q):
        return rows_helpers.examples_of({"p": without_p, "q": without_q}).loader(
            ["p", "q"], 10, shuffle=False
        )

    (batch,) = beside([1], [1])
    assert len(batch["p"]) == 4
    assert torch.equal(batch["p"], batch["q"])
    for without in ([0], [2], []):
        with pytest.raises(SelectionError, match="rows of other examples"):
            beside([1], without)


def test_rows_of_an_epoch_are_taken_one_by_one(near):
    """From any row on, to the last one; then there is none."""
    loader = near["x"].loader(5, block_bytes=12, window_bytes=120)
    whole = expected(near["x"], loader, epoch=3)
    with loader.stream(3, start=2) as rows:
        assert torch.equal(torch.cat([rows.take(n) for n in (1, 9, 7, 99)]), whole[2:])
        with pytest.raises(SelectionError, match="0 rows are left"):
            rows.take(1)
    with pytest.raises(StorageError, match="closed"):
        rows.take(1)
    with pytest.raises(SelectionError, match="from 0 on, not -1"):
        loader.epoch = -1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent(near):
    """What was begun before is refused there; the parent goes on."""
    batches = iter(near["x"].loader(1, prefetch_bytes=12))
    first = next(batches)
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            list(batches)
        except StorageError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len([first, *batches]) == sum(LENGTHS)
