"""Ray on two real nodes of this machine captures into one dataset and reads it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_helpers import ragged_corpus
from torch import nn

import lazycache as lc
from lazycache.integrations.ray import extract, to_ray_dataset

TESTS = Path(__file__).parents[1]

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: lazycache[ray]"
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What a job on a cluster has seen."""
    folder = tmp_path_factory.mktemp("ray")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "writers/ray_job.py"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_ray
@pytest.mark.slow
def test_actors_store_what_one_process_would_though_one_is_killed(job, figures):
    """Every example is there once, bit for bit, with its id and label; the block was run again."""
    assert job["nodes"] == 2
    assert job["kills"] is True
    assert job["killed"] == job["alone"]
    figures.add("actors of Ray killed")


@needs_ray
@pytest.mark.slow
def test_a_second_extract_on_ray_commits_nothing(job):
    """What is committed is skipped, also if the corpus comes as a list: the version stays."""
    before, after = job["versions"]
    assert before == after
    assert before >= 5


@needs_ray
@pytest.mark.slow
def test_ray_reads_the_rows_that_a_cache_shows(job):
    """Index, columns and both sites of the rows that a condition keeps, bit for bit."""
    odd = sum(len(ids) for ids in ragged_corpus(60)[1::2])
    assert job["read"] == {
        "rows": odd,
        "expected": odd,
        "same": {"0:out": True, "1:out": True},
        "names": ["0:out", "1:out", "example", "label", "position", "token_id"],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actors": 0}, "actors=0: a whole number, at least 1"),
        ({"block_items": True}, "block_items=True: a whole number, at least 1"),
        ({"rank": 1}, "rank does not go with Ray"),
        ({"commit": "group"}, "commit does not go with Ray"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_arguments_that_do_not_fit_are_refused_before_ray_is_asked(tmp_path, options, message):
    """Nothing is made, and no cluster is joined."""
    with pytest.raises(lc.CaptureError, match=message):
        extract(None, [[1]], tmp_path / "acts", "0", **options)
    assert list(tmp_path.iterdir()) == []


@needs_ray
@pytest.mark.parametrize(
    ("data", "sites", "more", "error"),
    [
        ([[1, 2]], "nothing", {}, lc.SiteNotFoundError),
        ([], "0", {}, lc.CaptureError),
        ([[1, 2]], "0", {"batch_size": 0}, lc.CaptureError),
    ],
    ids=["no such site", "an empty corpus", "no batch"],
)
def test_what_cannot_be_captured_replaces_nothing(tmp_path, data, sites, more, error):
    """With `overwrite` too what is there stays, and no cluster is joined."""
    model = nn.Sequential(nn.Embedding(10, 4))
    lc.extract(model, [[1, 2, 3]], tmp_path, "0", progress=False)
    with pytest.raises(error):
        extract(model, data, tmp_path, sites, overwrite=True, **more)
    assert lc.open(tmp_path, check=True).snapshot.rows("tokens") == 3


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    """Who has no Ray is told how to get it, before a dataset is replaced."""
    monkeypatch.setattr("lazycache.integrations.ray.find_spec", lambda _: None)
    with pytest.raises(lc.CaptureError, match=r"pip install 'lazycache\[ray\]'"):
        extract(None, [[1]], tmp_path / "acts", "0", overwrite=True)
    with pytest.raises(lc.CaptureError, match=r"pip install 'lazycache\[ray\]'"):
        to_ray_dataset(tmp_path / "acts", "0")
    assert list(tmp_path.iterdir()) == []
