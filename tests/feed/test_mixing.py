"""Mixtures of loaders: exact shares, every row once, resumed anywhere, or a clear refusal."""

import itertools
import json
import threading

import numpy as np
import pytest
import rows_helpers
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lazycache.errors import SelectionError, StorageError
from lazycache.feed import loader as loader_module
from lazycache.feed import mix
from lazycache.feed.mixture_plan import MixturePlan
from lazycache.feed.shares import Shares

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)
LENGTHS = {"a": (3, 1, 5, 2, 4, 6, 1, 2), "b": (4, 2, 3, 1), "c": (5,)}


@pytest.fixture(scope="module")
def made():
    """Three datasets of 24, 10 and 5 rows, whose rows all differ."""
    yield {name: rows_helpers.make(ls, seed=len(ls)) for name, ls in LENGTHS.items()}
    rows_helpers.forget()


@pytest.fixture(scope="module")
def owner(made):
    """Which dataset a row is of, by its bytes."""
    return {row.numpy().tobytes(): name for name, one in made.items() for row in one.x}


def loaders(made, names="abc", *, batch=7, **options):
    """Return a loader of each dataset, with small blocks and windows."""
    small = {"block_bytes": 24, "window_bytes": 72, "prefetch_bytes": 256}
    return [made[n].shared["x"].loader(batch, **{**small, **options}) for n in names]


def keys(batches):
    """Return the rows of batches as bytes, batch by batch."""
    return [[row.numpy().tobytes() for row in batch] for batch in batches]


@given(WEIGHTS, st.integers(0, 10**12), st.integers(1, 50))
def test_shares_are_exact_at_every_row(weights, start, count):
    """Shares sum to the rows, never shrink, and stay within a row or two of what is exact."""
    shares = Shares(weights)
    before = shares.after(start)
    for n in range(start, start + count):
        counts = shares.after(n)
        assert counts.sum() == n
        assert (counts >= before).all()
        far = np.abs(counts - n * shares.shares)
        assert (far <= 0.5 + shares.shares * len(weights) / 2 + 1e-3).all()
        before = counts


@given(WEIGHTS, st.data())
def test_where_an_epoch_ends(weights, data):
    """`first` ends before a row is lacking; `all` as soon as each source was seen whole."""
    rows = [data.draw(st.integers(1, 40)) for _ in weights]
    shares = Shares(weights)
    there = np.array(rows)
    first, whole = shares.until_first(rows), shares.until_all(rows)
    assert (shares.after(first) <= there).all()
    assert (shares.after(first + 1) > there).any()
    assert (shares.after(whole) >= there).all()
    assert (shares.after(whole - 1) < there).any()
    assert Shares(rows).until_first(rows) == Shares(rows).until_all(rows) == sum(rows)


@pytest.mark.parametrize("shuffle", [True, False])
def test_without_weights_all_rows_come_once(made, owner, shuffle):
    """Loaders without weights are one dataset: each row once an epoch, in every batch of each."""
    mixture = mix(loaders(made, shuffle=shuffle), 13)
    assert (mixture.rows, len(mixture)) == (39, 3)
    epochs = [keys(mixture) for _ in range(2)]
    assert mixture.epoch == 2
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == sorted(owner)
        for batch in epoch:
            of = [owner[row] for row in batch]
            assert [of.count(name) for name in "abc"] in ([8, 3, 2], [8, 4, 1])
    assert epochs[0] != epochs[1]


def test_weights_hold_in_every_batch(made, owner):
    """Of every batch each loader has its share, to the row; `first` ends with no row twice."""
    a, b, _ = loaders(made)
    mixture = mix({a: 1, b: 1}, 4, until="first")
    batches = keys(mixture)
    of = [[owner[row] for row in batch] for batch in batches]
    assert [(one.count("a"), one.count("b")) for one in of] == [(2, 2)] * 5 + [(1, 0)]
    seen = list(itertools.chain(*batches))
    assert len(set(seen)) == len(seen) == 21
    # they are not handed out loader after loader
    assert any(one != sorted(one) for one in of)


def test_all_begins_small_ones_again(made, owner):
    """`all` hands out each row of the largest once, those of smaller ones again."""
    mixture = mix(loaders(made, "ac"), 6, weights=[1, 1], until="all")
    rows = list(itertools.chain(*keys(mixture)))
    assert len(rows) == mixture.rows == 47
    counts = {row: rows.count(row) for row in owner}
    assert {n for row, n in counts.items() if owner[row] == "a"} == {1}
    # 23 of its 5 rows: four passes, and three rows of a fifth
    assert sorted(n for row, n in counts.items() if owner[row] == "c") == [4, 4, 5, 5, 5]


def test_the_source_of_a_row_is_a_column(made, owner):
    """`source=` tells of each row which loader it is of; columns and texts stay with their rows."""
    mixture = mix(loaders(made, columns=["token", "position"]), 10, source="of")
    known = {}
    for one in made.values():
        for row, token, position in zip(one.x, one.tokens.token, one.tokens.position, strict=True):
            known[row.numpy().tobytes()] = (token, position)
    for batch in mixture:
        rows = [row.numpy().tobytes() for row in batch["x"]]
        assert ["abc"[i] for i in batch["of"].tolist()] == [owner[row] for row in rows]
        there = zip(batch["token"], batch["position"].tolist(), strict=True)
        assert list(there) == [known[row] for row in rows]
    (plain,) = mix(loaders(made, "c"), 5, source="of")
    assert set(plain) == {"x", "of"}


@pytest.mark.parametrize("until", ["first", "all"])
def test_resumed_anywhere_it_is_the_same(made, until):
    """A state, put through JSON at every batch, gives the rest of two epochs bit for bit."""

    def make():
        return mix(loaders(made), 6, weights=[4, 2, 1], until=until, seed=3)

    mixture = make()
    whole, states = [], [mixture.state_dict()]
    for _ in range(2):
        for batch in mixture:
            whole.append(batch)
            states.append(mixture.state_dict())
    assert len(whole) == 2 * len(mixture)
    for done, state in enumerate(states[:-1]):
        again = make()
        again.load_state_dict(json.loads(json.dumps(state)))
        rest = list(again)
        if again.epoch == 1:
            rest += list(again)
        assert all(map(torch.equal, rest, whole[done:]))
        assert len(rest) == len(whole) - done
        assert again.epoch == 2


def test_a_state_of_something_else_is_refused(made):
    """A state names what differs; a mixture of other weights does not take it."""
    state = mix(loaders(made, "ab"), 6, weights=[1, 1]).state_dict()
    for other, says in (
        (mix(loaders(made, "ab"), 6, weights=[1, 2]), "weights is"),
        (mix(loaders(made, "ab"), 6, weights=[1, 1], seed=1), "seed is 0 in the state and 1 here"),
        (mix(loaders(made, "ab", seed=4), 6, weights=[1, 1]), "seed of loader 0 is 0"),
        (mix(loaders(made, "ba"), 6, weights=[1, 1]), "datasets of loader 0 is"),
    ):
        with pytest.raises(SelectionError, match=says):
            other.load_state_dict(state)


def test_iterations_of_the_loaders_do_not_matter(made):
    """What the loaders hand out meanwhile, and an iteration broken off, change no mixture."""
    parts = loaders(made, "ab")
    mixture = mix(parts, 6)
    first = keys(mixture)
    next(iter(parts[0]))
    parts[1].epoch = 7
    mixture.epoch = 0
    assert keys(mixture) == first
    mixture.epoch = 0
    broken = iter(mixture)
    next(broken)
    second = keys(mixture)
    assert mixture.epoch == 2
    next(broken)
    assert mixture.state_dict()["epoch"] == 2
    mixture.epoch = 1
    assert keys(mixture) == second


def test_ranks_have_equally_many_batches(made):
    """Ranks share out the rows, none twice; with drop_last all have as many full batches."""
    ranks = [
        mix(loaders(made, rank=r, world_size=3), 4, drop_last=True, weights=[3, 2, 1])
        for r in range(3)
    ]
    assert len({len(one) for one in ranks}) == 1
    rows = list(itertools.chain(*(itertools.chain(*keys(one)) for one in ranks)))
    assert len(rows) == 3 * 4 * len(ranks[0]) == len(set(rows))
    everyone = [mix(loaders(made, rank=r, world_size=3), 4) for r in range(3)]
    rows = list(itertools.chain(*(itertools.chain(*keys(one)) for one in everyone)))
    assert len(rows) == len(set(rows)) == 39
    everyone[1].load_state_dict(everyone[0].state_dict())


def test_closing_ends_the_threads(made):
    """No thread outlives a mixture that was closed, broken off, or read to its end."""
    before = set(threading.enumerate())
    with mix(loaders(made), 4) as mixture:
        batches = iter(mixture)
        next(batches)
    with pytest.raises(StorageError, match="closed"):
        list(batches)
    broken = iter(mixture)
    next(broken)
    broken.close()
    assert len(list(mixture)) == len(mixture)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before


def test_a_data_loader_takes_it_without_workers(made, monkeypatch):
    """A DataLoader hands a mixture's batches on; its workers are refused, with what to write."""
    mixture = mix(loaders(made), 13)
    assert len(list(DataLoader(mixture, batch_size=None))) == 3
    monkeypatch.setattr(loader_module, "get_worker_info", object)
    with pytest.raises(SelectionError, match="num_workers=0"):
        iter(mixture)


def test_what_cannot_be_mixed(made):
    """Loaders that hand out different things, and arguments that do not fit, are named."""
    a, b, c = loaders(made)
    x = made["a"].shared["x"]
    for other, says in (
        (x[..., :2].loader(4), r"shape of a row \(3,\)"),
        (x.loader(4, dtype=torch.float64), "dtype torch.float32"),
        (x.loader(4, columns=["token"]), "columns"),
        (x.loader(4, rank=0, world_size=2), "number of ranks 1"),
        (made["a"].shared["partial"].loader(4), "sites"),
        ((x * 2).loader(4), "keys of a batch"),
    ):
        with pytest.raises(SelectionError, match=f"cannot be mixed: {says}"):
            mix([b, other], 4)
    for call, says in (
        (lambda: mix([], 4), "mix takes loaders"),
        (lambda: mix([a, x], 4), r"x\.loader\(\.\.\.\)"),
        (lambda: mix([a, a], 4), "named twice"),
        (lambda: mix([a, b], 4, weights=[1]), "1 weights for 2 loaders"),
        (lambda: mix([a, b], 4, weights=[1, 0]), "positive number, not 0"),
        (lambda: mix({a: 1.0}, 4, weights=[1]), "in the mapping already"),
        (lambda: mix([a, b], 0), "at least 1, not 0"),
        (lambda: mix([a, b], 4, until="al"), "Nearest: all"),
        (lambda: mix([a, b, c], 4, source="x"), "a key of the batches already"),
        (lambda: mix(loaders(made, rank=0, world_size=9), 4), "no row for each"),
    ):
        with pytest.raises(SelectionError, match=says):
            call()


def test_columns_of_one_name_and_other_kinds_are_refused(made):
    """Numbers of one would be read as texts, or bits of others, of the other."""
    whole, text = (
        made[n].shared["x"].loader(4, columns={"c": sql}) for n, sql in (("a", "1"), ("b", "'1'"))
    )
    with pytest.raises(SelectionError, match=r"columns \{'c': 'int64'\} .* \{'c': 'text'\}"):
        mix([whole, text], 4)
    narrow = made["a"].shared["x"].loader(4, norm=lambda rows: rows[:, :1])
    wide = made["b"].shared["x"].loader(4, norm=lambda rows: rows)
    with pytest.raises(SelectionError, match=r"rows of \[3\] .* rows of \[1\]"):
        next(iter(mix([narrow, wide], 8)))


def test_batches_of_the_loaders_do_not_matter(made):
    """Nor whether they leave out the last one: every row comes, and a state fits."""
    mixtures = [
        mix(loaders(made, batch=batch, drop_last=drop), 13)
        for batch, drop in ((7, True), (5, False))
    ]
    assert [one.rows for one in mixtures] == [39, 39]
    assert keys(mixtures[0]) == keys(mixtures[1])
    mixtures[0].load_state_dict(mixtures[1].state_dict())


def test_a_billion_rows_are_planned_at_once():
    """The plan of 10^9 rows is worked out without a list of them, at any batch."""
    plan = MixturePlan((10**9, 10**8, 7), (0.7, 0.2, 0.1), 4096, 0, "all", drop_last=False)
    assert plan.total == 10**9 * 10 // 7 + 1
    batch = plan.batches // 2
    counts = plan.before(batch + 1) - plan.before(batch)
    assert counts.tolist() in ([2867, 819, 410], [2867, 820, 409], [2868, 819, 409])
    assert sorted(plan.places(0, batch, 4096)) == list(range(4096))
