"""Answers are printed as they arrive: a table's first rows, all of csv and json."""

import json
import re

import pyarrow as pa
import pytest

import lazycache as lc
from lazycache.errors import QueryError
from lazycache.views.answers import print_answer


class Endless:
    """An answer without end, and how many batches of it were read."""

    columns = ("n",)

    def __init__(self, batches=None):
        self.batches_left, self.read, self.closed = batches, 0, False

    def batches(self, rows):
        while self.batches_left is None or self.read < self.batches_left:
            self.read += 1
            yield pa.record_batch({"n": range(rows)})

    def close(self):
        self.closed = True


@pytest.fixture
def no_fetchall(monkeypatch):
    """No answer may be fetched as a whole."""
    monkeypatch.delattr("lazycache.query.sql.results.Result.fetchall")


def test_a_table_of_an_endless_answer_ends(capsys):
    """A table shows its rows and says that there are more, without reading them."""
    answer = Endless()
    print_answer(answer, form="table", most=40)
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines[:41]] == ["n", *map(str, range(40))]
    assert lines[41].startswith("… more rows")
    assert len(lines) == 42
    assert answer.read == 2
    assert answer.closed


@pytest.mark.parametrize("form", ["csv", "json"])
def test_csv_and_json_stream(form, capsys, monkeypatch):
    """All rows are printed, none is waited for: a pipe that closes ends the reading."""

    class Pipe:
        def __init__(self):
            self.lines = 0

        def isatty(self):
            return False

        def write(self, text):
            self.lines += text.count("\n")
            if self.lines > 2000:
                raise BrokenPipeError

        def flush(self):
            pass

    answer = Endless()
    monkeypatch.setattr("sys.stdout", Pipe())
    with pytest.raises(BrokenPipeError):
        print_answer(answer, form=form, most=40)
    assert answer.read == 2
    assert answer.closed


@pytest.mark.parametrize(
    ("rows", "end"), [(40, None), (41, "… 1 more row "), (100, "… 60 more rows "), (0, None)]
)
def test_a_short_answer_says_how_many_rows_are_left_out(rows, end, dataset, capsys, no_fetchall):
    """Where the whole answer is at hand, the rows that are not shown are counted."""
    result = lc.open(dataset).sql(f"SELECT row FROM tokens LIMIT {rows}")
    print_answer(result, form="table", most=40)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + min(rows, 40) + (end is not None)
    if end is not None:
        assert lines[-1].startswith(end)


def test_every_row_of_csv_and_json_is_there_once(dataset, capsys, no_fetchall):
    """Csv and json give all rows in order, over several batches."""
    cache = lc.open(dataset)
    total = cache.snapshot.rows("tokens")
    assert total > 1024
    print_answer(cache.sql("SELECT row FROM tokens ORDER BY row"), form="csv", most=40)
    assert capsys.readouterr().out.split() == ["row", *map(str, range(total))]
    print_answer(cache.sql("SELECT row FROM tokens ORDER BY row"), form="json", most=40)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"row": i} for i in range(total)]


def test_sums_of_integers_are_integers(dataset, capsys):
    """A sum, 128 bits wide in SQL, is a number in JSON and stands right in a table."""
    query = "SELECT sum(position) AS s, NULL AS z FROM tokens WHERE row < 4"
    print_answer(lc.open(dataset).sql(query), form="json", most=40)
    assert json.loads(capsys.readouterr().out) == {"s": 6, "z": None}
    print_answer(lc.open(dataset).sql(query), form="table", most=40)
    assert re.fullmatch(r"s  z\s*\n6  -\s*\n", capsys.readouterr().out)


def test_an_unknown_form_is_refused_before_the_query_runs():
    """A format that there is not is named, with those that there are."""
    answer = Endless()
    with pytest.raises(QueryError, match=r"'xml'.*table, csv, json"):
        print_answer(answer, form="xml", most=40)
    assert answer.read == 0
