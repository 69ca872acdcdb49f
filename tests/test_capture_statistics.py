"""What a capture stores of its values beside them."""

import torch
from dataset_helpers import gpt2, ragged_corpus

import lazycache as lc
from lazycache.codec.statistics import read_blocks


def mean_of(cache, name):
    """The mean over all rows, from statistics alone."""
    store, snapshot = cache.store, cache.snapshot
    spec = snapshot.sites[name]
    found = [read_blocks(shard.ref, spec, store.get_ranges) for shard in snapshot.shards(name)]
    total = sum(block.sum.sum(dim=0) for block in found)
    return total / sum(int(block.rows.sum()) for block in found)


def test_capture_extract_and_add_to_write_statistics(tmp_path):
    """By default each shard has them, also those of sites that are added later."""
    model, data, url = gpt2(), ragged_corpus(300), tmp_path / "acts"
    lc.extract(model, data, url, "resid_out_0")
    cache = lc.extract(model, None, sites="mlp_act_1", add_to=url)
    for name in ("resid_out_0", "mlp_act_1"):
        wanted = cache[name].rows.load().double().flatten(1).mean(0)
        torch.testing.assert_close(mean_of(cache, name), wanted, rtol=1e-12, atol=1e-12)


def test_a_capture_without_statistics_stores_none(tmp_path):
    """For who counts every byte."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 64))
    with lc.capture(model, tmp_path, "0", statistics=False):
        model(torch.ones(400, 64))
    assert not (tmp_path / "stats").exists()
