"""The order of rows: a permutation of all of them, the same wherever it is computed from."""

from collections import Counter
from itertools import pairwise, permutations
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lazycache.feed import order as order_module
from lazycache.feed.order import BLOCKS, ROWS, STORED, Order, Permutation, key_of

SIZES = st.integers(1, 400)
ORDERS = st.builds(
    lambda rows, kind, block, blocks, seed: Order(rows, kind, block, block * blocks, seed),
    SIZES,
    st.sampled_from([BLOCKS, ROWS, STORED]),
    st.integers(1, 50),
    st.integers(1, 9),
    st.integers(-(2**70), 2**70),
)


@given(
    n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1), most_sorted=st.sampled_from([0, 5000])
)
def test_a_permutation_has_every_number_once_and_an_inverse(n, key, most_sorted):
    """Whatever n and key are, sorted or by the network."""
    with mock.patch.object(order_module, "_MOST_SORTED", most_sorted):
        shuffled = Permutation(n, key)
    places = np.arange(n)
    found = shuffled(places)
    assert np.array_equal(np.sort(found), places)
    assert np.array_equal(shuffled.inverse(found), places)


def test_a_part_of_a_large_permutation_is_what_the_whole_has_there():
    """Of 10^12 numbers, where tables are too large, and each side of that."""
    for n in (1 << 32, 10**12, (1 << 62) + 1):
        shuffled, places = Permutation(n, 3), np.arange(n - 2000, n)
        found = shuffled(places)
        assert found.min() >= 0
        assert found.max() < n
        assert len(np.unique(found)) == 2000
        assert np.array_equal(shuffled(places[7:9]), found[7:9])
        assert np.array_equal(shuffled.inverse(found), places)


def test_every_order_of_four_is_as_likely():
    """A chi-square of 23 degrees of freedom stays below its value of one in a thousand."""
    counted = Counter(tuple(Permutation(4, key_of(s))(np.arange(4))) for s in range(3000))
    expected = 3000 / 24
    chi = sum((counted[order] - expected) ** 2 / expected for order in permutations(range(4)))
    assert chi < 49.7


def test_orders_of_few_are_odd_as_often_as_even():
    """Of nine numbers, too, which a network of three by three permutes evenly only."""
    odd = 0
    for seed in range(400):
        found = Permutation(9, key_of(seed))(np.arange(9))
        odd += int((found[:, None] > found)[np.triu_indices(9, 1)].sum()) % 2
    assert 150 < odd < 250


@given(order=ORDERS, world=st.integers(1, 7), epoch=st.integers(0, 3))
def test_ranks_have_each_row_once(order, world, epoch):
    """Their parts are disjoint, complete, and differ by one row at most."""
    ranks = [order.of_epoch(epoch, rank=r, world_size=world) for r in range(world)]
    parts = [rank.positions(0, rank.rows) for rank in ranks]
    assert sorted(np.concatenate(parts).tolist()) == list(range(order.rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(order=ORDERS, data=st.data())
def test_any_stretch_is_that_of_the_whole(order, data):
    """Computed from its own row numbers, not from what came before it."""
    world = data.draw(st.integers(1, 3))
    one = order.of_epoch(2, rank=world - 1, world_size=world)
    whole = one.positions(0, one.rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, one.rows), min_size=2, max_size=5)))
    for first, stop in pairwise(cuts):
        fresh = order.of_epoch(2, rank=world - 1, world_size=world)
        assert np.array_equal(fresh.positions(first, stop), whole[first:stop])


@given(order=ORDERS)
def test_a_window_is_whole_blocks_permuted_row_by_row(order):
    """Its rows are its members; the members are the runs that are asked of the disk."""
    one = order.of_epoch(1)
    row = 0
    while row < one.rows:
        first, row = one.window(row)
        members = one.members(first, row)
        assert np.array_equal(one.positions(first, row), members[one.places(first, row)])
        starts, stops = one.runs(first, row)
        if order.kind != ROWS:
            asked = [p for a, b in zip(starts, stops, strict=True) for p in range(a, b)]
            assert set(members.tolist()) <= set(asked)
            assert len(asked) <= len(members) + 2 * order.block_rows


def test_seed_and_epoch_choose_the_order():
    """Any other gives another one; stored order stays."""
    orders = [Order(500, BLOCKS, 10, 100, seed).of_epoch(e) for seed in (0, 1) for e in (0, 1)]
    found = {tuple(one.positions(0, 500).tolist()) for one in orders}
    assert len(found) == 4
    stored = Order(500, STORED, 10, 100, 5).of_epoch(9)
    assert stored.positions(0, 500).tolist() == list(range(500))
