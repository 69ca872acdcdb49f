"""What the benchmark of the training feed says of orders, and what its rows say of themselves."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bench_loader import SITE, ours_of, write_ours
from benchmarks.loader_peers import LEVELS, Rows, numbered, write_rows
from benchmarks.shuffle_quality import ours, quality, true_permutation
from lazycache.feed.order import BLOCKS, STORED, Order


def test_storage_order_has_the_numbers_that_arithmetic_gives_it() -> None:
    """Rows as they are stored: neighbours one apart, and a batch is one eighth of the dataset."""
    order = Order(rows=64, kind=STORED, block_rows=1, window_rows=64, seed=0)
    found = quality(ours(order, batch=8, stretches=1, each=8), rows=64, length=4)
    assert found.ks == pytest.approx(1 - 2 / 64)  # of 64 rows 63 pairs of 2016 are one apart
    assert found.same_example == pytest.approx(2 * 4 * 3 / (8 * 7))
    assert found.noise_example == pytest.approx((1 + 7 * 3 / 7) / (1 + 7 * 3 / 63))
    means = 8 * np.arange(8) + 3.5 - 31.5
    assert found.noise_drift == pytest.approx((means**2).mean() / (4095 / 12 / 8 * 56 / 63))


def test_a_true_permutation_has_no_noise_of_its_own_and_small_windows_have() -> None:
    """The numbers tell a permutation from blocks in windows, and large blocks from small ones."""
    true = quality(true_permutation(1 << 16, 256), rows=1 << 16, length=128)
    assert true.ks < 0.006  # 1.36 / sqrt(pairs) in 95 of 100
    assert true.noise_example == pytest.approx(1, abs=0.02)
    assert true.noise_drift == pytest.approx(1, abs=0.4)  # of 256 batches
    noises = []
    for block in (8, 32, 128):
        order = Order(rows=1 << 16, kind=BLOCKS, block_rows=block, window_rows=4096, seed=0)
        found = quality(ours(order, batch=256, stretches=1, each=256), rows=1 << 16, length=128)
        assert found.noise_drift == pytest.approx(1 + 256 * block / 4096, rel=0.45)
        noises.append(found.noise_example)
    assert 1.1 < noises[0] < noises[1] < noises[2]


def test_the_feed_that_is_timed_hands_out_every_row_once(tmp_path) -> None:
    """Values name their rows, in every shuffle of the dataset that the benchmark writes."""
    import lazycache as lc

    rows = Rows(tmp_path / "raw", LEVELS + 1000, 4, 1000, 4000, 4096)
    write_rows(rows)
    write_ours(rows)
    with lc.open(str(ours_of(rows))) as cache:
        for shuffle in (True, "rows", False):
            batches = list(cache[SITE].loader(rows.batch, shuffle=shuffle))
            found = np.concatenate([numbered(batch) for batch in batches])
            assert np.array_equal(np.sort(found), np.arange(rows.count))
            assert np.array_equal(found, np.arange(rows.count)) == (shuffle is False)
