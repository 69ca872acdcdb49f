"""Which rows are a process's own."""

import pytest
import torch

from lazycache.errors import SelectionError
from lazycache.feed import ranks
from lazycache.feed.ranks import Rank
from lazycache.samples import small_cache


def test_ranks_hand_out_each_row_once():
    """Three ranks of a dataset of six rows."""
    x = small_cache()["resid_out_0"]
    loaders = [x.loader(2, rank=r, world_size=3) for r in range(3)]
    rows = torch.cat([batch for one in loaders for batch in one])
    assert sorted(rows[:, 0].tolist()) == [0, 2, 4, 6, 8, 10]


def test_drop_last_gives_every_rank_as_many_batches():
    """All of them whole, also where the rows of ranks differ."""
    x = small_cache()["resid_out_0"]
    loaders = [x.loader(1, rank=r, world_size=4, drop_last=True) for r in range(4)]
    assert [len(one) for one in loaders] == [1, 1, 1, 1]
    assert [one.rows for one in loaders] == [1, 1, 1, 1]
    assert [len(list(one)) for one in loaders] == [1, 1, 1, 1]


def test_a_rank_is_that_of_torch_distributed(monkeypatch):
    """Where it runs and none is given."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 5)
    assert ranks.of_process(None, None) == Rank(2, 5)
    assert ranks.of_process(0, 3) == Rank(0, 3)


@pytest.mark.parametrize(("rank", "world_size"), [(0, None), (None, 2), (2, 2), (-1, 2)])
def test_ranks_that_are_none_are_refused(rank, world_size):
    """One without the other, or outside of the world."""
    with pytest.raises(SelectionError, match="rank"):
        ranks.of_process(rank, world_size)


def test_ranks_of_a_small_dataset_have_other_rows_in_every_epoch():
    """Though all of it is smaller than a block would be."""
    loaders = [small_cache()["resid_out_0"].loader(6, rank=r, world_size=2) for r in range(2)]
    halves = {
        tuple(sorted(batch[:, 0].tolist())) for one in loaders for _ in range(8) for batch in one
    }
    assert len(halves) > 2
