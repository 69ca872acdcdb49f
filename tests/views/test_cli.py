"""The command line: each command does its job and answers a mistake in one clear line."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import capture_helpers
import pytest
import torch
from typer.testing import CliRunner
from views_helpers import minilm_folder

import lazycache as lc
from lazycache.errors import QueryError
from lazycache.views.cli import app, main
from lazycache.views.demo import run_demo


def run(*arguments, code=0, **kwargs):
    """Run a command in this process; give its standard output."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], **kwargs)
    if done.exit_code != code and done.exception is not None:
        raise done.exception
    assert done.exit_code == code
    return done.stdout


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
    assert max(map(len, out.splitlines()[1:])) <= 152  # a configuration fills no screen


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


def test_head_shortens_vectors_in_a_table(dataset):
    """The table of `head` shows a few numbers of each vector and how many there are."""
    header, *lines = run("head", dataset, "mlp_act_0", "-n", 3).splitlines()
    assert header.split() == ["row", "example", "position", "token", "mlp_act_0"]
    assert len(lines) == 3
    first = lc.open(dataset)["mlp_act_0"].rows[0].load().tolist()
    shown = ", ".join(f"{value:.4g}" for value in first[:4])
    assert lines[0].rstrip().endswith(f"({shown}, … 1536)")
    assert max(map(len, lines)) < 100


def test_head_shows_as_many_rows_as_were_asked_for(dataset):
    """`head -n 60` prints 60 rows, also as a table."""
    assert len(run("head", dataset, "embed", "-n", 60).splitlines()) == 61


@pytest.mark.parametrize("site", ["pattern_0", "z_L0H1"])
def test_head_says_what_makes_no_table(site, tmp_path):
    """Rows of their own width, and one head of a site, are read in Python: the error says how."""
    model = capture_helpers.make("gpt2")
    with lc.capture(model, tmp_path, ["pattern_0", "z_0"]), torch.no_grad():
        model(capture_helpers.ids(1, 3))
    with pytest.raises(QueryError, match=rf"\['{site}'\]\[0\]\.load\(\)"):
        run("head", tmp_path, site)


def test_a_pipe_folds_nothing(dataset):
    """Output that is no terminal has one line per row, however long it is."""
    text = "x" * 300
    lines = run("sql", dataset, f"SELECT '{text}' AS a, '{text}' AS b").splitlines()
    assert lines[1].split() == [text, text]
    assert len(run("info", dataset).split("\n\n")[0].splitlines()) == 1


@pytest.mark.parametrize("folder", ["acts[red]", "acts[/x]"])
def test_brackets_in_an_address_are_text(folder, tmp_path, dataset):
    """An address that looks like markup is printed as it is."""
    url = tmp_path / folder
    shutil.copytree(dataset, url)
    assert run("info", url).startswith(f"{url}: ")
    assert run("ls", url) == run("ls", dataset)
    run_demo(str(url), characters=6000)


def test_counts_of_one_have_no_plural(tmp_path):
    """`info` says 1 commit and 1 site."""
    model = torch.nn.Sequential(torch.nn.Embedding(9, 2))
    with lc.capture(model, tmp_path / "a", "0"):
        model(torch.tensor([[1]]))
    out = run("info", tmp_path / "a")
    assert "1 token of 1 example × 1 site = 8 B in 1 commit (version 1, " in out


def test_h_is_help():
    """`-h` is `--help`, for the command and its verbs."""
    assert "Usage" in run("-h")
    assert run("ls", "-h") == run("ls", "--help")


def test_sites_lists_what_a_model_has_without_reading_weights(minilm):
    """`sites` lists names, modules, shapes and bytes per token of a model folder."""
    lines = run("sites", minilm_folder()).splitlines()
    line = next(line for line in lines if line.startswith("mlp_act_3 "))
    assert "[1536]" in line
    assert line.split()[-1] == str(1536 * 4)


def test_capture_runs_a_model_over_a_file_and_resumes(tmp_path):
    """`capture` stores a corpus file; run again it adds nothing and loses nothing."""
    folder = minilm_folder()
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "Paris is in France.", "label": "x"}\n{"text": "A cat sat."}\n')
    arguments = ["capture", folder, corpus, tmp_path / "acts", "-s", "resid_out_[4-5]"]
    for _ in range(2):
        assert "2 examples" in run(*arguments)
    cache = lc.open(tmp_path / "acts")
    assert list(cache) == ["resid_out_4", "resid_out_5"]
    labels = cache.sql("SELECT label FROM examples ORDER BY example").fetchall()
    assert labels == [("x",), (None,)]


def test_capture_names_its_run_and_takes_any_text_column(tmp_path):
    """`--run` adds a second run, `--text-column` says what the text is called."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"body": "Paris is in France."}\n')
    arguments = ["capture", minilm_folder(), corpus, tmp_path / "acts", "-s", "embed"]
    for name in ("first", "second"):
        run(*arguments, "--text-column", "body", "--run", name, "--no-progress")
    cache = lc.open(tmp_path / "acts")
    assert list(cache.snapshot.runs) == ["first", "second"]
    texts = cache.sql("SELECT text FROM examples").fetchall()
    assert texts == [("Paris is in France.",)] * 2


def test_capture_says_what_it_would_take_and_writes_nothing(tmp_path):
    """`--dry-run` prints a line for each site, the sum, the time and the free disk."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Paris is in France.\n\nA cat sat.\n")
    arguments = ["capture", minilm_folder(), corpus, tmp_path / "a[b]", "-s", "resid_out_[4-5]"]
    lines = run(*arguments, "--dry-run", "--pool", "mean").splitlines()
    assert lines[0] == f"{tmp_path / 'a[b]'}: 2 examples, 13 tokens"
    assert lines[2].split() == ["resid_out_4", "examples", "float32", "[384]", "2", "3.07", "kB"]
    assert "nothing was written" in lines[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["corpus.txt"]


def test_capture_adds_sites_to_what_is_stored(tmp_path):
    """`--add-to` gives the rows of a dataset another site, in batches as they were asked for."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Paris is in France.\n\nA cat sat.\n")
    model, url = minilm_folder(), tmp_path / "acts"
    run("capture", model, corpus, url, "-s", "embed", "--batch-tokens", 16, "--no-progress")
    out = run("capture", model, corpus, "--add-to", url, "-s", "resid_out_0", "--no-progress")
    assert "13 tokens of 2 examples × 2 sites" in out
    cache = lc.open(url)
    assert cache.snapshot.runs["main"].info["batches"]["batch_tokens"] == 16
    assert cache["resid_out_0"].lengths.tolist() == cache["embed"].lengths.tolist()


CAPTURE = ["capture", "MODEL", "corpus.txt", "out", "-s", "embed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "nowhere"], "DatasetNotFoundError"),
        (["ls", "corpus.txt"], "StorageError: Could not read 'lazycache.json'"),
        (["head", "DATASET", "resid_ot_2"], "resid_out_2"),
        (["sql", "DATASET", "SELECT tokn FROM tokens"], "token"),
        (["sql", "DATASET", "SELECT 1", "--format", "xml"], "table, csv, json"),
        (["sites", "no-such-model"], "no-such-model"),
        (["sites", "./no-such-folder"], "There is no folder './no-such-folder'"),
        (["sites", "MODEL", "--gguf-file", "x.gguf"], "model.safetensors"),
        (["head", "DATASET", "embed", "-n", "0"], "-n 0: give a number of at least 1"),
        (["capture", "no-model", "no-file.txt", "out", "-s", "embed"], "no-file.txt"),
        ([*CAPTURE, "--text-column", "body"], "no .jsonl"),
        ([*CAPTURE, "--batch-size", "-4"], "--batch-size -4: give a number of at least 1"),
        ([*CAPTURE, "--batch-tokens", "0"], "--batch-tokens 0: give a number of at least 1"),
        ([*CAPTURE, "--pool", "median"], "--pool median: give mean, sum, max"),
        ([*CAPTURE, "--add-to", "out"], "Give one place"),
        (["capture", "MODEL", "corpus.txt", "-s", "embed"], "Give one place"),
        (["capture", "MODEL", "corpus.txt", "out"], "--site: name at least one"),
        (["capture", "MODEL", "corpus.txt", "--add-to", "out", "-s", "x"], "DatasetNotFoundError"),
        ([*CAPTURE, "--max-length", "0"], "--max-length 0: give a number of at least 1"),
        ([*CAPTURE, "--max-length", "513"], "512 tokens at most"),
        ([*CAPTURE, "--positions", "--3"], "--positions --3: give all, first"),
        ([*CAPTURE, "--positions", "²"], "--positions ²: give all, first"),
        ([*CAPTURE, "--model-dtype", "foo"], "--model-dtype foo: give a floating-point dtype"),
        ([*CAPTURE, "--model-dtype", "int8"], "--model-dtype int8: give a floating-point dtype"),
        ([*CAPTURE, "--dtype", "nn"], "--dtype nn: give a floating-point dtype"),
        ([*CAPTURE, "--device", "foo"], "--device foo cannot be used here"),
        ([*CAPTURE, "--device", "cuda:99"], "--device cuda:99 cannot be used here"),
        ([*CAPTURE, "--device", "meta"], "--device meta cannot be used here"),
    ],
)
def test_a_mistake_is_one_clear_line(dataset, tmp_path, arguments, message, monkeypatch, capsys):
    """A mistake ends with code 1 and says what is wrong, before anything is written."""
    (tmp_path / "corpus.txt").write_text("Paris is in France.")
    known = {"DATASET": str(dataset), "MODEL": str(minilm_folder())}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lazycache", *(known.get(a, a) for a in arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    out, error = capsys.readouterr()
    assert (done.value.code, out) == (1, "")
    assert re.match(r"[A-Z]\w+Error: ", error)
    assert message in error
    assert len(error.splitlines()) == (3 if "SELECT tokn FROM tokens" in arguments else 1)
    assert not (tmp_path / "out").exists()


def test_the_command_itself_ends_with_code_1_and_no_traceback(tmp_path):
    """The installed command gives its code to the shell and its message to standard error."""
    code = "import sys; from lazycache.views.cli import main; sys.argv[0] = 'lazycache'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "ls", "nowhere"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("DatasetNotFoundError: ")
    assert "Traceback" not in done.stderr
