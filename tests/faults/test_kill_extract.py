"""An extract that is killed again and again ends as the same dataset, each row exactly once."""

import json

import pytest
from dataset_helpers import content
from faults.capture_crasher import make_model
from faults.extract_crasher import ADDED, LEAST, SITES, make_data

import lazycache as lc


@pytest.fixture(scope="module")
def killed(tmp_path_factory, request, crashers):
    """Datasets whose extract, and then the addition of a site, was killed until it had finished."""
    folder = tmp_path_factory.mktemp("killed")
    most = 100 if request.config.getoption("--long") else 40
    crashers.run("extract_crasher", folder, most, 11, timeout=280)
    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    return [folder / f"run{n}" for n in range(counts.pop("finished"))], counts


@pytest.mark.slow
def test_kills_and_resumes_give_the_dataset_of_an_uninterrupted_run(killed, tmp_path, figures):
    """Rows, columns and every site are those of one extract of all sites, and nothing is twice."""
    urls, kills = killed
    assert sum(kills.values()) >= 40
    figures.add("extracts killed", sum(kills.values()))
    assert min(kills["extract"], kills["add"]) > LEAST, kills
    data = make_data()
    whole = lc.extract(make_model(), data, tmp_path, [*SITES, ADDED], batch_size=4)
    wanted = content(whole)
    assert {"tokens", "examples", "embed", "resid_out_0", "resid_out_1", "mlp_act_1"} == set(wanted)
    for url in urls:
        cache = lc.open(url, check=True)
        assert len(cache.snapshot.commits) > 1
        rows = [(n, p) for n, item in enumerate(data) for p in range(len(item["input_ids"]))]
        query = "SELECT example, position FROM tokens ORDER BY example, position"
        assert cache.sql(query).fetchall() == rows
        assert content(cache) == wanted
