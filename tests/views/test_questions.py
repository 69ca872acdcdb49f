"""Questions on the command line: top, similar, stats, hist and sql; to a terminal and to files."""

import csv
import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import lazycache as lc
from lazycache.errors import DatasetExistsError, QueryError, SiteNotFoundError, StorageError
from lazycache.views import questions
from lazycache.views.answers import print_answer
from lazycache.views.cli import app, main
from lazycache.views.forms import TableAnswer


def run(*arguments, **kwargs):
    """Run a command in this process; give its standard output."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], **kwargs)
    if done.exception is not None:
        raise done.exception
    assert done.exit_code == 0
    return done.stdout


def rows(text):
    """The objects of json, one a line."""
    return [json.loads(line) for line in text.splitlines()]


def names_in(folder):
    """The files of a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def cache(dataset):
    """The dataset, opened."""
    return lc.open(dataset)


def test_top_finds_the_rows_of_a_unit_with_their_text(dataset, cache):
    """The rows of torch's topk, best first; `--smallest` and `--where` choose; a table shows it."""
    values = cache["mlp_act_3"].rows[:, 412].load()
    best = values.topk(5)
    found = rows(run("top", dataset, "mlp_act_3", 412, "-k", 5, "--format", "json"))
    assert [one["row"] for one in found] == best.indices.tolist()
    assert [one["value"] for one in found] == pytest.approx(best.values.tolist())
    tokens = dict(cache.sql("SELECT row, token FROM tokens").fetchall())
    assert [one["token"] for one in found] == [tokens[one["row"]] for one in found]
    least = rows(run("top", dataset, "mlp_act_3", 412, "-k", 2, "--smallest", "--format", "json"))
    assert [one["value"] for one in least] == pytest.approx(values.sort().values[:2].tolist())
    options = ["-k", 3, "--where", "position = 1", "--per-example", "--context", 0]
    some = rows(run("top", dataset, "mlp_act_3", 412, *options, "--format", "json"))
    assert {one["position"] for one in some} == {1}
    assert "before" not in some[0]
    shown = run("top", dataset, "mlp_act_3", 412, "-k", 3).splitlines()
    assert shown[0].split() == ["value", "row", "example", "position", "before", "token", "after"]
    assert len(shown) == 4
    assert max(map(len, shown)) < 160


def test_similar_finds_the_row_itself_first(dataset, cache):
    """The nearest by cosine are torch's; the row itself is the best of them."""
    x = cache["resid_out_2"].rows.load().double()
    scores = torch.nn.functional.cosine_similarity(x, x[7][None], dim=1)
    found = rows(run("similar", dataset, "resid_out_2", 7, "-k", 4, "--format", "json"))
    assert [one["row"] for one in found] == scores.topk(4).indices.tolist()
    assert found[0]["row"] == 7
    with pytest.raises(QueryError, match="has no row 9999999"):
        run("similar", dataset, "resid_out_2", 9999999)
    with pytest.raises(QueryError, match="euclid"):
        run("similar", dataset, "resid_out_2", 7, "--metric", "euclid")


def test_stats_are_those_of_every_unit_and_read_no_shard(dataset, cache, monkeypatch):
    """A row for each unit, equal to torch; no byte of a shard is asked for."""
    opened = []
    true_open = lc.open
    monkeypatch.setattr("lazycache.open", lambda url: opened.append(true_open(url)) or opened[-1])
    found = rows(run("stats", dataset, "resid_out_1", "--format", "json"))
    assert opened[0].io.bytes == 0
    x = cache["resid_out_1"].rows.load().double()
    assert [one["unit"] for one in found] == list(range(384))
    assert [one["mean"] for one in found] == pytest.approx(x.mean(0).tolist(), rel=1e-9)
    assert [one["max"] for one in found] == x.max(0).values.tolist()
    shown = run("stats", dataset, "resid_out_1").splitlines()
    assert shown[0] == f"resid_out_1: {len(x):,} rows"
    assert shown[-1].startswith("… 344 more rows")


def test_hist_draws_bars_of_text(dataset, cache):
    """A line for each bin, the longest bar the fullest; all counts are numpy's."""
    values = cache["mlp_act_3"].rows[:, 412].load()
    counts = torch.histc(values, 8).long().tolist()
    lines = run("hist", dataset, "mlp_act_3", 412, "--bins", 8).splitlines()
    shown = [int(line.split()[3].replace(",", "")) for line in lines]
    assert shown == counts
    bars = [line.count("█") + line.count("#") for line in lines]
    assert bars[counts.index(max(counts))] == max(bars) == questions.WIDTH
    assert all((bar > 0) == (count > 0) for bar, count in zip(bars, counts, strict=True))
    found = rows(run("hist", dataset, "mlp_act_3", "--bins", 4, "--format", "json"))
    assert sum(one["count"] for one in found) == cache["mlp_act_3"].rows.numel()


def test_what_is_in_no_bin_is_said():
    """NaN and infinities are counted beside the bars."""
    x = torch.tensor([0.0, 1.0, float("nan"), float("inf"), -float("inf"), float("nan")])
    found = lc.ActivationCache({"x": x}).histogram("x", 2)
    *bins, left = questions.bars(found)
    assert len(bins) == 2
    assert left == "in no bin: NaN 2, inf 1, -inf 1"


def test_a_file_has_all_rows_in_the_form_of_its_ending(dataset, cache, tmp_path):
    """csv, json and Parquet by the ending, or by --format; vectors stay vectors in Parquet."""
    query = "SELECT row, token, resid_out_2[:4] AS x FROM tokens WHERE row < 1100 ORDER BY row"
    for name in ("a.csv", "a.jsonl", "a.parquet", "b.txt"):
        form = ["--format", "json"] if name == "b.txt" else []
        assert run("sql", dataset, query, "-o", tmp_path / name, *form) == ""
    table = pq.read_table(tmp_path / "a.parquet")
    x = cache["resid_out_2"].rows[:1100, :4].load()
    assert torch.equal(torch.tensor(table["x"].to_pylist()), x)
    lines = rows((tmp_path / "a.jsonl").read_text())
    assert [one["token"] for one in lines] == table["token"].to_pylist()
    assert (tmp_path / "b.txt").read_text() == (tmp_path / "a.jsonl").read_text()
    found = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [int(one["row"]) for one in found] == list(range(1100))
    assert names_in(tmp_path) == ["a.csv", "a.jsonl", "a.parquet", "b.txt"]
    run("sql", dataset, "SELECT row FROM tokens WHERE false", "-o", tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").schema.names == ["row"]


def test_a_file_that_is_there_is_kept_unless_it_shall_be_replaced(dataset, tmp_path):
    """Refused before the question is asked; --overwrite replaces it whole."""
    path = tmp_path / "a.csv"
    path.write_text("mine")
    with pytest.raises(DatasetExistsError, match="--overwrite replaces it"):
        run("sql", dataset, "nonsense", "-o", path)
    assert path.read_text() == "mine"
    run("sql", dataset, "SELECT 1 AS a", "-o", path, "--overwrite")
    assert path.read_text().split() == ["a", "1"]


class Failing(TableAnswer):
    """An answer that fails after a batch."""

    def batches(self, rows=4):
        yield from super().batches(rows)
        raise QueryError("on some row")


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_answer_that_fails_leaves_no_file(form, tmp_path):
    """Half an answer is none: the folder is as it was, and so is a file that was to be replaced."""
    answer = Failing(pa.table({"a": range(10)}))
    path = tmp_path / "out"
    with pytest.raises(QueryError, match="on some row"):
        print_answer(answer, form=form, most=1, output=str(path))
    assert names_in(tmp_path) == []
    path.write_text("old")
    with pytest.raises(QueryError, match="on some row"):
        print_answer(answer, form=form, most=1, output=str(path), overwrite=True)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("output", "form", "error", "said"),
    [
        ("a.txt", None, QueryError, "say how it is written"),
        ("a.csv", "table", QueryError, "A table is for a terminal"),
        ("a.csv", "xml", QueryError, "'xml'. There are: table, csv, json, parquet"),
        ("none/a.csv", None, StorageError, "there is no folder"),
        (".", "csv", StorageError, "a folder or a device"),
        ("/dev/null", "csv", StorageError, "a folder or a device"),
    ],
    ids=["ending", "table", "form", "folder", "a folder", "device"],
)
def test_what_cannot_be_written_is_said_before_the_question(
    output, form, error, said, dataset, tmp_path, monkeypatch
):
    """Names the file, what is wrong and what to give; the query is not looked at."""
    monkeypatch.chdir(tmp_path)
    options = [] if form is None else ["--format", form]
    with pytest.raises(error, match=said):
        run("sql", dataset, "nonsense", "-o", output, "--overwrite", *options)


def test_parquet_goes_into_a_pipe_and_not_onto_a_terminal(dataset, monkeypatch):
    """A real process writes it to a pipe, which cannot seek; a terminal is refused."""
    code = "from lazycache.views.cli import main; main()"
    query = "SELECT row, token FROM tokens ORDER BY row"
    command = [sys.executable, "-c", code, "sql", dataset, "-", "--format", "parquet"]
    done = subprocess.run(command, input=query.encode(), capture_output=True, check=True)
    table = pq.read_table(pa.BufferReader(done.stdout))
    assert table["row"].to_pylist() == list(range(table.num_rows))
    assert done.stderr == b""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(QueryError, match="no text for a terminal"):
        print_answer(TableAnswer(table), form="parquet", most=1)


def test_tokens_give_no_orders_to_a_terminal(capsys):
    """Escapes, carriage returns and markup of a token are shown, not obeyed."""
    tokens = ["\x1b[2J", "[red]x[/red]", "a\rb", "\u202etxt", "\x07"]
    print_answer(TableAnswer(pa.table({"token": tokens})), form="table", most=9)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines == ["token", r"\x1b[2J", "[red]x[/red]", r"a\rb", r"\u202etxt", r"\x07"]


def test_an_error_gives_no_orders_to_a_terminal(dataset, monkeypatch, capsys):
    """What it tells of the data is shown, not obeyed; lines stay lines."""
    query = "SELECT error('[red]a' || chr(27) || '[2J' || chr(10) || 'b')"
    monkeypatch.setattr("sys.argv", ["lazycache", "sql", str(dataset), query])
    with pytest.raises(SystemExit) as found:
        main()
    assert found.value.code == 1
    assert capsys.readouterr().err.splitlines()[0].endswith(r"[red]a\x1b[2J")


def test_help_says_what_is_in_brackets_and_more_rows_than_there_are_are_all(dataset):
    """Defaults are not taken for markup; k beyond 64 bits is every row."""
    assert "the default" in run("top", "--help")
    assert "[table]" not in run("top", "--help")
    query = ["mlp_act_3", 412, "-k", 10**23, "--where", "row < 3", "--context", 0]
    assert len(run("top", dataset, *query).splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["top", "mlp_act_3", "many"], QueryError, "unit 'many'"),
        (["top", "mlp_act_3", "99999"], Exception, "99999"),
        (["top", "mlp_oct_3", "1"], SiteNotFoundError, "mlp_act_3"),
        (["hist", "mlp_act_3", "1,2"], QueryError, "one number, 0 to 1535: 2 given"),
        (["stats", "nothing"], SiteNotFoundError, "nothing"),
        (["top", "mlp_act_3", "1", "--context", "-1"], QueryError, "context of -1"),
        (["similar", "resid_out_2", str(10**23)], QueryError, "has no row 1000"),
        (["sql", "SELECT 1 AS a, 2 AS a", "--format", "json"], QueryError, "called 'a'"),
    ],
    ids=[
        "unit",
        "no such unit",
        "site",
        "dimensions",
        "no such site",
        "context",
        "row",
        "two columns of a name",
    ],
)
def test_mistakes_are_named(arguments, error, said, dataset):
    """What was given, and what there is."""
    name, *rest = arguments
    with pytest.raises(error, match=said):
        run(name, dataset, *rest)
