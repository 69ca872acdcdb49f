"""What scripts rely on: JSON with the keys of the documentation, exit codes, plain text."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from care_helpers import small_commits
from typer.testing import CliRunner
from views_helpers import minilm_folder

import lazycache as lc
from lazycache.views.cli import app, main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"


def run(*arguments, code=0):
    """Run a command in this process; give its standard output."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, done.output
    return done.stdout


def keys(name):
    """The keys that the page promises of a command."""
    found = re.search(rf"^\| [^|]*`{name}`[^|]*\|(.*)\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    return max(re.findall(r"`([^`]+)`", found[1]), key=len).split()


def test_lines_of_json_have_the_keys_of_the_page(dataset):
    """Ls and sites are an object a line; so is every answer, by `--json` as by `--format json`."""
    listed = [json.loads(line) for line in run("ls", dataset, "--json").splitlines()]
    cache = lc.open(dataset)
    assert [one["site"] for one in listed] == list(cache)
    assert {tuple(one) for one in listed} == {tuple(keys("ls"))}
    assert listed[0] == {
        "site": "embed",
        "table": "tokens",
        "dtype": "float32",
        "shape": [384],
        "rows": cache.rows("embed"),
        "bytes": cache.stored_bytes("embed"),
    }
    sites = [json.loads(line) for line in run("sites", minilm_folder(), "--json").splitlines()]
    assert {tuple(one) for one in sites} == {tuple(keys("sites"))}
    for name, *rest in (
        ("stats", "embed"),
        ("hist", "embed", 3),
        ("top", "mlp_act_3", 412, "-k", 2),
        ("similar", "embed", 4, "-k", 2),
    ):
        lines = run(name, dataset, *rest, "--json")
        assert lines == run(name, dataset, *rest, "--format", "json")
        assert list(json.loads(lines.splitlines()[0])) == keys(name)
    assert list(json.loads(run("head", dataset, "embed", "-n", 1, "--json"))) == [
        *keys("head"),
        "embed",
    ]


def test_documents_of_json_have_the_keys_of_the_page(dataset, tmp_path):
    """Reports are one document: of a dataset, of a check, of what care has done."""
    found = json.loads(run("info", dataset, "--json"))
    assert list(found) == keys("info")
    assert found["runs"][0]["info"]["model"]["class"].endswith("BertModel")
    assert found["columns"]["examples"]["topic"] == "string"
    url = tmp_path / "acts"
    small_commits(url, range(3), sites=("z_0",))
    for name, *rest in (
        ("verify", url),
        ("copy", url, tmp_path / "copy"),
        ("export", url, tmp_path / "out"),
        ("card", url),
        ("compact", url),
        ("gc", url),
        ("seal", url, "main"),
        ("remove-run", url, "main", "--yes"),
    ):
        assert list(json.loads(run(name, *rest, "--json"))) == keys(name), name
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A cat sat.")
    line = ["capture", minilm_folder(), corpus, tmp_path / "new", "-s", "embed", "--json"]
    assert list(json.loads(run(*line, "--dry-run"))) == keys("capture --dry-run")
    assert list(json.loads(run(*line))) == keys("capture")


def test_a_check_that_fails_says_so_in_json_and_in_its_code(tmp_path):
    """`verify --json` of a damaged dataset is a document, and exit code 1."""
    small_commits(tmp_path, range(1), sites=("z_0",))
    shard = next((tmp_path / "data").rglob("*.parquet"))
    shard.write_bytes(b"x" * shard.stat().st_size)
    found = json.loads(run("verify", tmp_path, "--json", code=1))
    assert found["ok"] is False
    assert found["problems"][0]["site"] == "z_0"


def test_json_has_no_nan(dataset):
    """NaN and infinities are null, in a column and in a list."""
    query = "SELECT 'nan'::DOUBLE AS a, ['inf'::DOUBLE, 1.5] AS b, 2 AS c"
    assert run("sql", dataset, query, "--json") == '{"a": null, "b": [null, 1.5], "c": 2}\n'


def failing(monkeypatch, capsys, *arguments):
    """Run the command itself; give its exit code, and what it says on standard error."""
    monkeypatch.setattr("sys.argv", ["lazycache", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    out, error = capsys.readouterr()
    assert out == ""
    return done.value.code, error


def test_exit_codes_tell_who_has_to_act(dataset, tmp_path, monkeypatch, capsys):
    """2: the line was not understood; 130: Ctrl-C; 1: refused, by lazycache or by the system."""
    code, error = failing(monkeypatch, capsys, "ls", "--jsn", dataset)
    assert code == 2
    assert "--json" in error
    assert failing(monkeypatch, capsys, "tpo", dataset)[0] == 2
    code, error = failing(
        monkeypatch, capsys, "head", dataset, "embed", "--json", "--format", "csv"
    )
    assert (code, error) == (1, "QueryError: --json and --format csv: give one of them.\n")
    out = tmp_path / "file"
    out.touch()
    code, error = failing(
        monkeypatch, capsys, "capture", minilm_folder(), out / "x", "a", "-s", "e"
    )
    assert (code, len(error.splitlines())) == (1, 1)

    def denied(url):
        raise PermissionError(13, "Permission denied", "acts/lazycache.json")

    monkeypatch.setattr("lazycache.open", denied)
    code, error = failing(monkeypatch, capsys, "ls", dataset)
    assert (code, error) == (1, "PermissionError: acts/lazycache.json: Permission denied.\n")

    def stopped(url):
        raise KeyboardInterrupt

    monkeypatch.setattr("lazycache.open", stopped)
    code, error = failing(monkeypatch, capsys, "ls", dataset)
    assert code == 130
    assert error.startswith("Interrupted: ")


FLOOD = """
from lazycache.views.cli import app, main

@app.command()
def flood():
    for i in range(100_000):
        print(i, "x" * 100)

main()
"""


def test_a_pipe_that_closes_is_no_error():
    """`lazycache … | head -1` says nothing more, and ends with code 1."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD, "flood"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        error = process.stderr.read()
    assert first.startswith(b"0 x")
    assert (process.returncode, error) == (1, b"")
