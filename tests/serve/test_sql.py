import csv
import json
import re
import threading
import time

import pytest
from page_helpers import ODD_TOKENS, Tags, client, odd_cache

from lazycache.errors import QueryError
from lazycache.faces.html import Html
from lazycache.serve.answering import ask
from lazycache.serve.axes import Axis
from lazycache.serve.charts import Chart, chosen, drawn

ENDLESS = "SELECT count(*) FROM range(1000000) a, range(1000000) b"


@pytest.fixture(scope="module")
def cache():
    return odd_cache()


@pytest.fixture(scope="module")
def browser(cache):
    return client(cache, rows=4, columns=5, letters=40, nbytes=5_000)


def asked(browser, query, **more):
    return browser.get("/sql", params={"q": query, **more})


def test_an_address_is_a_question_and_its_answer(browser):
    """The query is in the address: whoever opens it sees the same rows."""
    answer = asked(browser, 'SELECT row, unit("resid_out_1", 1) AS a\r\nFROM tokens WHERE row > 3')
    page = Tags(answer.text)
    assert answer.status_code == 200
    assert "2 rows in " in page.text
    assert "WHERE row > 3" in page.text
    assert "\\x0d" not in page.text
    assert re.findall(r'<td class="number">(.*?)</td>', answer.text) == ["4", "9", "5", "11"]


def test_tokens_are_text_with_their_white_space(browser):
    """A token is never an element of the page, and its spaces, ends and marks can be seen."""
    answer = asked(browser, "SELECT token FROM tokens ORDER BY row LIMIT 4", chart="none")
    page = Tags(answer.text)
    assert ODD_TOKENS[0] in page.text
    assert ODD_TOKENS[1] in page.text
    assert "\\u202eA" in page.text
    assert "·a" in page.text


def test_rows_columns_and_letters_have_bounds(browser):
    """Of a large answer the first rows and columns are shown, of a cell the first letters."""
    page = Tags(asked(browser, "SELECT repeat('x', 99) AS t, * FROM tokens").text)
    assert "The first 4 rows in " in page.text
    assert "there are more" in page.text
    assert "more columns are not shown" in page.text
    assert f"{'x' * 39}…" in page.text
    assert "x" * 40 not in page.text
    vectors = Tags(asked(browser, "SELECT [0.5::FLOAT, 1, 2, 3, 4, 5] AS v, NULL AS n").text)
    assert "0.5, 1, 2, 3, … 6 in all" in vectors.text


def test_only_what_is_shown_is_read(cache):
    """A star reads the sites of the columns that are shown, and the rows."""
    before = cache.io.rows
    asked(client(cache, rows=2, columns=4), "SELECT * FROM tokens")
    assert cache.io.rows == before
    asked(client(cache, rows=2), "SELECT resid_out_0 AS a, resid_out_1 AS b FROM tokens")
    assert cache.io.rows == before + 6


def test_an_answer_that_is_too_large_to_hold_is_cut(cache):
    """Rows are shown until they are too large, one at least; the page says that there are more."""
    query = "SELECT repeat('x', 3000) AS t FROM range(200)"
    page = Tags(asked(client(cache, held=10_000), query).text)
    assert "The first 3 rows in " in page.text
    assert "The first 1 row in " in Tags(asked(client(cache, held=9), query).text).text


def test_nested_values_are_shortened_and_nothing_fails(cache):
    """Maps, structs, lists in lists and dates beyond Python's years have a cell each."""
    shown = (
        ("map(range(9), range(9))", "0: 0, 1: 1, 2: 2, 3: 3, … 9 in all"),
        ("{'a': 'nan'::FLOAT, '<b>': [1, 2]}", "{a: nan, <b>: [2]}"),
        ("[[1, 2], NULL, []]", "[[2], NULL, [0]]"),
        ("union_value(num := 2)", "2"),
        ("DATE '9999-01-01' + INTERVAL 9 YEAR", "10008-01-01"),
        ("['infinity'::DATE]", "out of range"),
    )
    browser = client(cache)
    query = f"SELECT {', '.join(f'{sql} AS c{at}' for at, (sql, _) in enumerate(shown))}"
    page = Tags(asked(browser, query).text)
    assert [said for _, said in shown if said not in page.text] == []
    (line,) = json.loads(browser.get("/sql.json", params={"q": query}).text)
    assert (line["c1"], line["c2"]) == ({"a": None, "<b>": [1, 2]}, [[1, 2], None, []])
    assert browser.get("/sql.csv", params={"q": query}).status_code == 200


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT tokn FROM tokens", "Nearest: token"),
        ("SELECT '<b>' FROM nowhere", "nowhere"),
        ("SELECT 1; SELECT 2", "One SQL statement at a time"),
        ("DROP TABLE tokens", "only reads"),
        ("SELECT * FROM read_text('/etc/passwd')", "no other files"),
        ("SELECT error('<script>')", "<script>"),
    ],
)
def test_what_is_wrong_is_said_beside_the_query(browser, query, said):
    """A query that is wrong, writes or reaches elsewhere is status 400, and stays in its box."""
    answer = asked(browser, query)
    page = Tags(answer.text)
    assert answer.status_code == 400
    assert said in page.text
    assert query in page.text
    assert len(page.all("script")) == 1


def test_a_query_ends_in_time(cache):
    """A query without an end is ended, and the next one runs."""
    browser = client(cache, seconds=0.2)
    began = time.monotonic()
    answer = asked(browser, ENDLESS)
    assert answer.status_code == 400
    assert "ended after 0.2 seconds" in answer.text
    assert time.monotonic() - began < 20
    assert asked(browser, "SELECT 1").status_code == 200


def test_a_query_ends_when_nobody_waits_for_it(cache):
    """A reader who leaves ends the query, and does not wait for a turn either."""
    explorer = client(cache, seconds=60).app.state.explorer
    gone = threading.Event()
    threading.Timer(0.1, gone.set).start()
    began = time.monotonic()
    with pytest.raises(QueryError, match="Nobody waits for this"):
        ask(explorer, ENDLESS, gone=gone)
    assert time.monotonic() - began < 30, "it ran for all of its 60 seconds"
    assert explorer.sql_turn.acquire(timeout=0)
    with pytest.raises(QueryError, match="Nobody waits for this"):
        ask(explorer, ENDLESS, gone=gone)


def test_one_query_runs_at_a_time(cache):
    """A second one waits for the first as long as that may run, then says so."""
    browser = client(cache, seconds=0.1)
    turn = browser.app.state.explorer.sql_turn
    with turn:
        assert "one runs at a time" in asked(browser, "SELECT 1").text
    assert asked(browser, "SELECT 1").status_code == 200
    waiting = client(cache, seconds=30)
    waiting.app.state.explorer.sql_turn.acquire()
    held = threading.Timer(0.05, waiting.app.state.explorer.sql_turn.release)
    held.start()
    assert asked(waiting, "SELECT 1").status_code == 200
    held.join()


def test_an_answer_is_taken_away_as_csv_and_json(browser):
    """The shown rows are files with whole values: vectors as lists, no number as null."""
    query = "SELECT row, token, resid_out_0 AS v, 'nan'::FLOAT AS x FROM tokens ORDER BY row"
    rows = list(csv.reader(browser.get("/sql.csv", params={"q": query}).text.splitlines()))
    assert rows[0] == ["row", "token", "v", "x"]
    assert rows[1] == ["0", ODD_TOKENS[0], "[0.0, 1.0]", "nan"]
    assert len(rows) == 5
    answer = browser.get("/sql.json", params={"q": query})
    assert answer.headers["content-disposition"] == 'attachment; filename="answer.json"'
    assert json.loads(answer.text)[2] == {
        "row": 2,
        "token": "\u202eA",
        "v": [4.0, 5.0],
        "x": None,
    }
    assert "\u202e" not in answer.text


def test_a_file_has_a_bound_and_its_names(browser):
    """Rows that are too large are refused, and columns of one name where an object is made."""
    large = browser.get("/sql.csv", params={"q": "SELECT repeat('x', 9000) AS t"})
    assert large.status_code == 400
    assert "More than 5 kB in the first rows (1)" in Tags(large.text).text
    twice = browser.get("/sql.json", params={"q": "SELECT 1 AS a, 2 AS a"})
    assert "Two columns are called 'a'" in Tags(twice.text).text


def test_the_suggested_queries_run(cache):
    """Each query that the page offers has an answer, whatever the sites are called."""
    browser = client(cache)
    offered = [one["href"] for one in Tags(browser.get("/sql").text).all("a")]
    queries = [link for link in offered if link.startswith("/sql?q=")]
    assert len(queries) == 4
    for link in queries:
        assert browser.get(link).status_code == 200


def test_columns_decide_what_is_drawn():
    """A text and a number are bars, what grows is a line, two numbers are dots; ids are nothing."""
    numbers, texts = [1.5, 2.5, 0.5], ["a", "b", "c"]
    assert chosen(["t", "a"], ["text", "number"], [texts, numbers]) == Chart("bars", 0, 1)
    assert chosen(["position", "a"], ["number"] * 2, [[0, 1, 2], numbers]) == Chart("line", 0, 1)
    assert chosen(["a", "b"], ["number"] * 2, [numbers, numbers]) == Chart("dots", 0, 1)
    assert chosen(["a"], ["number"], [numbers]) == Chart("bars", None, 0)
    assert chosen(["row", "token"], ["number", "text"], [[1, 2], texts]) is None
    assert chosen(["v"], ["other"], [()]) is None


@pytest.mark.parametrize("form", ["bars", "line", "dots"])
def test_a_chart_leaves_out_what_is_no_number(form):
    """NaN, infinities, NULL and numbers beyond all measure are not drawn, and nothing fails."""
    values = [1.0, float("nan"), float("inf"), None, -1e308, 3.0]
    svg = drawn(Chart(form, None, 0), ["<b>"], [values])
    assert isinstance(svg, Html)
    assert "<b>" not in svg
    assert svg.count({"bars": "<rect", "line": "<circle", "dots": "<circle"}[form]) == 2
    assert "nan" not in svg
    assert drawn(Chart(form, None, 0), ["a"], [[None]]) == ""


def test_bars_below_zero_differ_from_those_above():
    """Orange is above zero and blue below, as values are everywhere; counts are blue."""
    signed = drawn(Chart("bars", 0, 1), ["t", "a"], [["x", "y"], [2.0, -1.0]])
    assert re.findall(r'class="(bar[^"]*)"', signed) == ["bar second", "bar"]
    counts = drawn(Chart("bars", 0, 1), ["t", "n"], [["x", "y"], [2, 1]])
    assert re.findall(r'class="(bar[^"]*)"', counts) == ["bar", "bar"]


def test_a_person_chooses_the_chart(browser):
    """What is drawn is part of the address too; what does not fit is as if it was not asked."""
    query = "SELECT row, unit(resid_out_0, 0) AS a FROM tokens ORDER BY row"
    assert "<circle" in asked(browser, query).text
    assert "<circle" not in asked(browser, query, chart="bars").text
    assert "<svg" not in asked(browser, query, chart="none").text
    assert asked(browser, query, chart="pie", x="99", y="token").status_code == 200
    assert "<svg" not in asked(browser, "SELECT row FROM tokens").text
    assert "<rect" in asked(browser, "SELECT row FROM tokens", y="0").text


def test_marks_of_an_axis_are_round():
    """An axis has a few round marks, of tiny, huge and equal numbers too."""
    assert Axis.over([0.0, 0.37], 0, 1).marks() == [0.0, 0.1, 0.2, 0.3]
    assert Axis.over([-4e12, 1e13], 0, 1).marks() == [0.0, 5e12, 1e13]
    assert Axis.over([7.0], 0, 100).at(7.0) == 50.0
    assert Axis.over([0.0], 0, 1).marks() == [-1.0, -0.5, 0.0, 0.5, 1.0]
