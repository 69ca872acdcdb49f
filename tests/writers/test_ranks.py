"""Processes with given ranks: which ids they count, who may write, when a run is complete."""

from copy import deepcopy

import pytest
import torch
from dataset_helpers import content, gpt2, ragged_corpus
from torch import nn

import lazycache as lc
from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.ledger import Ledger
from lazycache.errors import CommitConflictError, StorageError
from lazycache.storage.local_store import LocalStore
from lazycache.types import Commit, SiteSpec
from lazycache.writer.ranks import ranks_of
from lazycache.writer.sealing import seal_run
from lazycache.writer.shared_commit import merged_drafts

DATA = ragged_corpus(30)


@pytest.fixture
def model():
    return nn.Sequential(nn.Embedding(50, 4))


def rows_of(url, run="main"):
    query = "SELECT example FROM examples WHERE run = $run ORDER BY row"
    return [i for (i,) in lc.open(url).sql(query, {"run": run}).fetchall()]


def ids(*examples):
    return torch.tensor([[i] for i in examples])


def test_ids_are_counted_in_steps_beside_given_ones():
    """Counted ids stay in their class; a given one of it is passed over, of another it may lie."""
    ledger = Ledger(next_example=7, step=3)
    ledger.claim(ledger.ids_for(Annotation(), 2))
    ledger.claim([12, 16])
    assert ledger.ids_for(Annotation(), 2) == [19, 22]
    for used in (7, 10, 12, 16):
        with pytest.raises(lc.CaptureError, match=f"Example {used} was recorded already"):
            ledger.refuse_used([used])
    ledger.refuse_used([13, 9, 8])


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        (0, None, "give both"),
        (None, 2, "give both"),
        (2, 2, "from 0 to world_size - 1"),
        (-1, 2, "from 0 to world_size - 1"),
        (True, 2, "rank=True: a whole number"),
        (0, 2.0, "world_size=2.0: a whole number"),
    ],
    ids=["no size", "no rank", "beyond", "negative", "bool", "float"],
)
def test_ranks_that_cannot_be_are_refused(rank, size, message):
    """Both are needed, and fit each other."""
    with pytest.raises(lc.CaptureError, match=message):
        ranks_of(rank, size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"commit": "all"}, "commit='all': one of 'own', 'group'"),
        ({"commit": "group"}, "processes commit together over torch.distributed"),
        ({"overwrite": True}, "rank 0 alone replaces a dataset"),
    ],
    ids=["no such commit", "no group", "overwrite"],
)
def test_what_processes_with_given_ranks_cannot_do_is_refused(model, tmp_path, options, message):
    """Nobody can wait for the others; nothing is made."""
    with pytest.raises(lc.CaptureError, match=message):
        lc.capture(model, tmp_path / "acts", "0", rank=1, world_size=2, **options)
    assert list(tmp_path.iterdir()) == []


def test_ranks_count_what_a_distributed_sampler_deals(model, tmp_path):
    """Ids of all ranks together are those of the corpus; another number of ranks goes on behind."""
    for rank in (2, 0, 1):
        with lc.capture(model, tmp_path, "0", resume=True, rank=rank, world_size=3):
            model(ids(*range(30)[rank::3]))
    assert rows_of(tmp_path) == [*range(2, 30, 3), *range(0, 30, 3), *range(1, 30, 3)]
    cache = lc.open(tmp_path)
    assert cache["input_ids"].load().flatten().tolist() == list(range(30))
    with lc.capture(model, tmp_path, "0", resume=True, rank=1, world_size=2):
        model(ids(1, 2))
    assert rows_of(tmp_path)[30:] == [31, 33]
    with lc.capture(model, tmp_path, "0", resume=True, run="more", rank=1, world_size=2):
        model(ids(1, 2))
    assert rows_of(tmp_path, "more") == [35, 37]


def test_of_two_processes_with_one_rank_the_later_one_goes_on(model, tmp_path):
    """The one that was thought dead is refused at its next commit; what it committed stays."""
    options = {"resume": True, "rank": 0, "world_size": 2}
    zombie = lc.capture(model, tmp_path, "0", **options)
    with pytest.raises(CommitConflictError, match="has taken over rank 0 of run 'main'"):
        with zombie:
            model(ids(1))
            zombie.commit()
            with zombie.paused(), lc.capture(model, tmp_path, "0", **options) as later:
                later.annotate(example=[10])
                model(ids(2))
                later.commit()
                version = lc.open(tmp_path).snapshot.version
            model(ids(3))
            zombie.commit()
    assert version == 2
    assert rows_of(tmp_path) == [0, 10]


def test_two_processes_that_begin_one_run_with_other_weights_are_told_apart(tmp_path):
    """The second one to commit is refused by what differs, though both found an empty place."""
    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Embedding(50, 4)) for _ in range(2))
    options = {"resume": True, "world_size": 2}
    with lc.capture(one, tmp_path, "0", rank=0, **options) as first:
        with pytest.raises(CommitConflictError, match="the model's weights was"):
            with lc.capture(other, tmp_path, "0", rank=1, **options) as second:
                one(ids(1))
                first.commit()
                other(ids(2))
                second.commit()
    assert rows_of(tmp_path) == [0]


@pytest.mark.parametrize("committed", [0, 1], ids=["empty", "a commit"])
def test_who_writes_to_a_dataset_that_was_replaced_is_refused(model, tmp_path, committed):
    """Its files went with the old one: the new one takes no record that names them."""
    with pytest.raises(CommitConflictError, match="the dataset was removed or replaced"):
        with lc.capture(model, tmp_path, "0", rank=1, world_size=2) as old:
            for n in range(committed):
                model(ids(n))
                old.commit()
            model(ids(5))
            with old.paused(), lc.capture(model, tmp_path, "0", overwrite=True) as new:
                for n in (7, 8):
                    model(ids(n))
                    new.commit()
            old.commit()
    cache = lc.open(tmp_path, check=True)
    assert cache.snapshot.version == 2
    assert torch.equal(cache["0:out"].rows.load(), model[0].weight[[7, 8]])


def test_an_extract_whose_ids_others_have_taken_meanwhile_is_refused(model, tmp_path):
    """Its items were counted from 0 on; begun again they would be other examples."""

    class Corpus(list):
        def __iter__(self):
            with lc.capture(model, tmp_path, "0", run="other", resume=True) as run:
                model(ids(1, 2))
                run.commit()
            return super().__iter__()

    with pytest.raises(lc.CaptureError, match=r"Others have added examples to .* Nothing was"):
        lc.extract(model, Corpus(DATA), tmp_path, "0", run="main", progress=False)
    assert lc.open(tmp_path).snapshot.runs.keys() == {"other"}


def test_two_processes_that_add_one_site_differently_are_told_apart(tmp_path):
    """Both found the rows without the site: the second to commit is refused by what differs."""
    model, began = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 3)), []
    options = {"progress": False, "batch_size": 1}
    lc.extract(model, DATA, tmp_path, "0", **options)

    def add(rank, **more):
        options.update(add_to=tmp_path, sites="1", world_size=2)
        lc.extract(deepcopy(model), None, rank=rank, **options, **more)

    def meanwhile(values):
        if not began:
            began.append(1)
            add(0)
        return 2 * values

    with pytest.raises(lc.CaptureError, match="in another way: transform"):
        add(1, transform={"1": meanwhile})
    assert lc.open(tmp_path, check=True).snapshot.runs.keys() == {"main", "main+1:out"}


def test_sites_are_added_by_several_ranks_as_by_one(tmp_path):
    """Each rank runs every other batch of the stored tokens; the values are those of one."""
    model, options = gpt2(), {"batch_size": 4, "progress": False}
    for name in ("one", "three"):
        lc.extract(model, DATA, tmp_path / name, "embed", **options)
    lc.extract(model, None, add_to=tmp_path / "one", sites="resid_out_*", progress=False)
    for rank in (1, 2, 0):
        lc.extract(
            model,
            None,
            add_to=tmp_path / "three",
            sites="resid_out_*",
            rank=rank,
            world_size=3,
            progress=False,
        )
    one, three = (lc.open(tmp_path / name) for name in ("one", "three"))
    assert content(one) == content(three)
    assert three.snapshot.version == one.snapshot.version + 2
    with pytest.raises(lc.CaptureError, match="commit='group' does not go with add_to"):
        lc.extract(model, None, add_to=tmp_path / "one", sites="z_0", commit="group")


def test_a_sealed_run_takes_no_more_rows(model, tmp_path):
    """Not in its own block, not later; other runs, and an overwrite, are welcome."""
    with pytest.raises(lc.CaptureError, match="Run 'main' was sealed"):
        with lc.capture(model, tmp_path, "0") as run:
            model(ids(1, 2))
            assert run.seal() == 2
            model(ids(3))
    assert lc.open(tmp_path).snapshot.sealed == {"main"}
    with pytest.raises(lc.CaptureError, match="is sealed: it is complete"):
        with lc.capture(model, tmp_path, "0", resume=True):
            pytest.fail("the block is not entered")
    with lc.capture(model, tmp_path, "0", resume=True, run="more") as run:
        model(ids(3))
        assert (run.seal(), run.seal()) == (4, 4)
    assert rows_of(tmp_path) == [0, 1]
    with lc.capture(model, tmp_path, "0", overwrite=True) as run:
        model(ids(3))
    with pytest.raises(lc.CaptureError, match=r"in the with block. Behind it: .* 'main'"):
        run.seal()
    assert lc.open(tmp_path).snapshot.sealed == frozenset()


def test_a_writer_is_refused_behind_a_seal_of_another(model, tmp_path):
    """A process that was late does not add to a run that somebody has called complete."""
    with lc.capture(model, tmp_path, "0") as one:
        with pytest.raises(CommitConflictError, match="has just sealed run 'main'"):
            with lc.capture(model, tmp_path, "0", resume=True) as late:
                with late.paused():
                    model(ids(1))
                one.seal()
                late.annotate(example=[5])
                with one.paused():
                    model(ids(9))
                late.commit()
    assert rows_of(tmp_path) == [0]


def test_an_extract_that_is_complete_may_be_repeated_when_it_is_sealed(model, tmp_path):
    """There is nothing to add; a longer corpus is refused."""
    options = {"batch_size": 1, "progress": False}
    lc.extract(model, DATA, tmp_path, "0", **options)
    with (
        lc.capture(model, tmp_path, "0", resume=True, run="other") as run,
        pytest.raises(lc.CaptureError, match="Nothing of run 'other'"),
    ):
        run.seal()
    seal_run(LocalStore(tmp_path, create=False), "main", rank=0)
    assert len(lc.extract(model, DATA, tmp_path, "0", **options)["0:out"]) == 30
    with pytest.raises(lc.CaptureError, match="is sealed"):
        lc.extract(model, [*DATA, [1]], tmp_path, "0", **options)


def test_drafts_that_do_not_fit_together_make_no_record():
    """One record has one run, and one shape of a site."""
    site = SiteSpec("0:out", "tokens", "float32", (4,), 16)
    first = Commit(1, "a", "w", "now", "main", sites=(site,))
    with pytest.raises(lc.CaptureError, match="rank 1 run 'other'"):
        merged_drafts([first, Commit(1, "b", "w", "now", "other")])
    wide = SiteSpec("0:out", "tokens", "float32", (8,), 32)
    with pytest.raises(lc.CaptureError, match="on rank 1, and"):
        merged_drafts([first, Commit(1, "b", "w", "now", "main", sites=(wide,))])
    assert issubclass(CommitConflictError, StorageError)
