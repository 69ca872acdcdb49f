"""Two processes of torchrun capture into one dataset; three in the long form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dataset_helpers import content, gpt2
from writers.rank_job import DATA, OPTIONS, SITES

import lazycache as lc
from lazycache.catalog.log import CommitLog
from lazycache.storage.local_store import LocalStore

TESTS = Path(__file__).parents[1]


def torchrun(folder, *jobs, size=2):
    """Run jobs on so many processes; what each has seen, by job and rank, and what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*command, str(size), str(TESTS / "writers/rank_job.py"), str(folder), *jobs],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [job.partition("@")[0] for job in jobs]
    seen = {
        (name, rank): json.loads(path.read_text())
        for name in names
        for rank in range(size)
        if (path := folder / f"{name}-{rank}.json").exists()
    }
    return seen | {"printed": done.stdout}


@pytest.fixture(scope="module")
def size(request):
    """How many processes there are."""
    return 3 if request.config.getoption("long") else 2


@pytest.fixture(scope="module")
def job(tmp_path_factory, size):
    """One job of all ranks that does everything once; the folder, and what each rank has seen."""
    folder = tmp_path_factory.mktemp("torchrun")
    for name in ("extract", "unlike"):  # are replaced, or not
        lc.extract(gpt2(), DATA[:3], folder / name, SITES, **OPTIONS)
    lc.extract(gpt2(), iter(DATA[:9]), folder / "changed", SITES, **OPTIONS)
    names = ["example", "loop", "extract", "together", "sealed@together", "different", "apart"]
    names += ["unlike", "changed", "failing", "killed"]
    return folder, torchrun(folder, *names, size=size)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process captures: an example per forward pass, and in batches."""
    folder, model = tmp_path_factory.mktemp("alone"), gpt2()
    with torch.no_grad(), lc.capture(model, folder / "loop", SITES):
        for ids in DATA:
            model(torch.tensor([ids]))
    lc.extract(model, DATA, folder / "extract", SITES, **OPTIONS)
    return {name: content(lc.open(folder / name)) for name in ("loop", "extract")}


def commits(url):
    return CommitLog(LocalStore(url, create=False)).read()


@pytest.mark.slow
def test_a_loop_on_several_ranks_stores_what_one_process_would(job, alone, size):
    """Ids are those of the corpus, every bit is the same, and all ranks see all behind it."""
    folder, seen = job
    assert [seen["loop", rank]["result"] for rank in range(size)] == [alone["loop"]] * size
    begun = [commit.session.rank for commit in commits(folder / "loop") if commit.session]
    assert sorted(begun) == list(range(size))


@pytest.mark.slow
def test_an_extract_on_several_ranks_replaces_and_stores_what_one_would(job, alone, size):
    """Batches are dealt in turn, so that each runs as it would alone: the bits are the same."""
    folder, seen = job
    assert [seen["extract", rank]["result"] for rank in range(size)] == [alone["extract"]] * size
    ranks = {int(commit.writer.rpartition(":r")[2]) for commit in commits(folder / "extract")}
    assert ranks == set(range(size))


@pytest.mark.slow
def test_a_group_commits_one_record_for_all(job, alone, size):
    """Each `run.commit()` is one version with the rows of all; none begins by itself."""
    folder, seen = job
    versions = [seen["together", rank]["result"]["versions"] for rank in range(size)]
    assert versions == [[1, 2]] * size
    found = commits(folder / "together")
    rows = [sum(file.rows for file in c.tables if file.table == "examples") for c in found]
    assert rows == [24, 17, 0]
    assert [c.sealed for c in found] == [(), (), ("main",)]
    assert seen["together", 0]["result"]["content"] == alone["loop"]
    assert len(lc.open(folder / "together").snapshot.arrays("main")) == 1


@pytest.mark.slow
def test_a_sealed_run_is_refused_on_every_rank(job):
    """A run that was sealed takes no more, and says what to do."""
    _, seen = job
    assert "Run 'main' of" in seen["sealed", 0]["result"]
    assert "is sealed: it is complete" in seen["sealed", 0]["result"]
    assert seen["sealed", 1]["result"].startswith("Rank 0 of this capture has failed: CaptureError")


@pytest.mark.slow
def test_a_rank_that_fails_makes_the_others_raise(job, size):
    """Nothing of the commit that it missed is there, and nobody waits for it."""
    folder, seen = job
    assert seen["failing", 1]["result"] == "KeyError: 'mine'"
    assert "Another process of this capture has failed" in seen["failing", 0]["result"]
    assert seen["failing", 0]["seconds"] < 20
    assert lc.open(folder / "failing").snapshot.rows("examples") == size


@pytest.mark.slow
def test_a_rank_that_is_gone_makes_the_others_raise(job):
    """A process that ends in the middle of a group commit leaves nothing of it."""
    folder, seen = job
    assert ("killed", 1) not in seen
    assert "Another process of this capture has failed" in seen["killed", 0]["result"]
    assert seen["killed", 0]["seconds"] < 20
    assert commits(folder / "killed") == []


@pytest.mark.slow
def test_ranks_with_different_corpora_are_refused(job):
    """Who gives each rank a part of the corpus hears of it before anything runs."""
    _, seen = job
    errors = [seen["different", rank]["result"] for rank in (0, 1)]
    assert all("corpus" in error for error in errors), errors


@pytest.mark.slow
def test_ranks_that_do_not_see_one_place_are_refused(job, size):
    """A folder of one machine is no place for several: the others make no dataset of their own."""
    folder, seen = job
    last = f"{folder}/apart-{size - 1}"
    assert (
        f"this process finds none at {last}: all need one place"
        in seen["apart", size - 1]["result"]
    )
    assert "Rank 1 of this capture has failed: CaptureError" in seen["apart", 0]["result"]
    assert sorted(path.name for path in folder.glob("apart-?")) == ["apart-0"]


@pytest.mark.slow
def test_ranks_with_different_options_replace_nothing(job, size):
    """What is there stays if the processes do not agree on what is to take its place."""
    folder, seen = job
    assert all("dtype" in seen["unlike", rank]["result"] for rank in range(size))
    assert lc.open(folder / "unlike").snapshot.rows("examples") == 3


@pytest.mark.slow
def test_a_corpus_that_one_rank_finds_changed_is_refused_on_all(job, size):
    """The others do not wait for a process that will not come."""
    _, seen = job
    for rank in range(size):
        assert "Example 3 of this corpus is not the one" in seen["changed", rank]["result"]
        assert seen["changed", rank]["seconds"] < 20


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_what_is_left(tmp_path, alone):
    """An extract of one process that was interrupted is finished by two, bit for bit."""
    model, calls = gpt2(), []

    def stop(*_):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        lc.extract(model, DATA, tmp_path / "more", SITES, **OPTIONS)
    model = gpt2()
    for rank in (2, 0, 1):
        lc.extract(model, DATA, tmp_path / "more", SITES, rank=rank, world_size=3, **OPTIONS)
    assert content(lc.open(tmp_path / "more")) == alone["extract"]


@pytest.mark.slow
def test_the_example_of_torchrun_runs_on_several_ranks(job, size):
    """It stores the sentences of all ranks in the order of the corpus, and seals the run."""
    folder, seen = job
    assert "LazyTensor(resid_out_5: shape=(5, " in seen["printed"]
    assert "in the order of the corpus: True" in seen["printed"]
    cache = lc.open(folder / "example")
    ranks = cache.sql("SELECT rank FROM examples ORDER BY example").fetchall()
    assert [rank for (rank,) in ranks] == [i % size for i in range(5)]
    assert cache.snapshot.sealed == {"main"}
