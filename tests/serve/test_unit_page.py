"""The page of a unit: its numbers, where it is largest, what goes with it, and what it refuses."""

import re
from html import unescape
from urllib.parse import quote

import pytest
from serve_helpers import ODD_SITE, odd_dataset
from starlette.testclient import TestClient

from lazycache.serve import neighbours
from lazycache.serve.app import make_app


def facts(text):
    """Names and values of the numbers of a page."""
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))


def values(text):
    """Value, example and position of the rows in the tables of a page."""
    cell = r'<td class="number">(.*?)</td>'
    found = re.findall(rf'{cell}\n<td class="nowrap"><a href="(.*?)">.*?\n{cell}', text)
    return [(value, unescape(to), position) for value, to, position in found]


def test_numbers_of_a_unit_are_those_of_all_its_rows(pages):
    """Rows, mean, extremes, firing rate and quantiles of a unit that counts 0 to 84, and 0, 1."""
    told = facts(pages.get("/unit?site=mlp_act_0&unit=1").text)
    assert told["rows"] == "87"
    assert told["mean"] == "41.046"
    assert (told["least"], told["greatest"]) == ("0", "84")
    assert told["above zero"] == "97.7 %"
    assert told["50% quantile"] == "41"


def test_largest_rows_lead_to_their_examples_and_are_marked_in_their_text(pages):
    """The best row comes first, with its link, and its token is the one with an outline."""
    text = pages.get("/unit?site=mlp_act_0&unit=1").text
    found = values(text)
    assert found[0] == ("84", "/example?example=2&run=main&site=mlp_act_0&unit=1", "69")
    assert [value for value, _, _ in found] == [str(84 - i) for i in range(12)]
    assert text.count(" hit") == 12
    assert "Where it is smallest" not in text


def test_smallest_rows_are_there_if_the_unit_goes_below_zero(pages):
    """Of a unit that is never above zero the smallest are shown too, smallest first."""
    text = pages.get("/unit?site=mlp_act_0&unit=0").text
    below = values(text.split("Where it is smallest")[1])
    assert [value for value, _, _ in below] == [str(-84 + i) for i in range(6)]


def test_one_row_of_each_example(pages):
    """With distinct=1 no example is there twice."""
    found = values(pages.get("/unit?site=mlp_act_0&unit=1&distinct=1").text)
    assert [position for _, _, position in found] == ["69", "2", "11", "1"]


def test_without_first_positions(pages):
    """With later=1 rows, numbers and the query leave out what is first in each example."""
    text = pages.get("/unit?site=mlp_act_0&unit=1&later=1").text
    assert facts(text)["rows"] == "83"
    assert "WHERE+position+%3E+0" in text


def test_query_of_the_page_finds_the_same_rows(pages, odd):
    """The SQL that the page offers can be asked, also of a site whose name has quotes."""
    text = pages.get(f"/unit?site={quote(ODD_SITE)}&unit=1").text
    (asked,) = re.findall(r'href="(/sql\?.*?)"', text)
    query = dict(TestClient(pages.app)._merge_url(unescape(asked)).params)["q"]
    assert odd.sql(query).fetchall()[0][:2] == (2, 69)


def test_neighbours_are_worked_out_once(pages, monkeypatch):
    """Units that go with one, the strongest first; asked again, nothing is worked out."""
    place = "/unit/neighbours?site=z_0&unit=0,1"
    first = pages.get(place).text
    assert re.findall(r"unit=(.*?)\"", first)[:2] == ["0%2C0", "0%2C2"]
    assert first.count("+1.000") == 10
    monkeypatch.setattr(neighbours, "_worked_out", None)
    assert pages.get(place).text == first


def test_rows_of_heads_have_an_index_for_each_dimension(pages):
    """A site of heads by units shows its first unit, and goes on from head to head."""
    text = pages.get("/unit?site=z_0&unit=0,3").text
    assert 'rel="prev" href="/unit?site=z_0&amp;unit=0%2C2"' in text
    assert 'rel="next" href="/unit?site=z_0&amp;unit=1%2C0"' in text
    assert pages.get("/unit?site=z_0").text.count('value="0,0"') == 1


def test_pooled_sites_show_the_columns_of_examples(pages):
    """Rows that are whole examples have no tokens: their columns are there instead."""
    text = pages.get("/unit?site=pooled&unit=1").text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert 'class="context"' not in text
    assert "without first positions" not in text


def test_without_a_site_a_middle_layer_is_shown(pages):
    """Whoever has not chosen is sent to neurons, at an address that can be shared."""
    answer = pages.get("/unit", follow_redirects=False)
    assert answer.headers["location"] == "/unit?site=mlp_act_1"


def test_patterns_lead_to_examples(pages):
    """An attention pattern has no units: it is looked at example by example."""
    answer = pages.get("/unit?site=pattern_0", follow_redirects=False)
    assert answer.headers["location"] == "/example?layer=pattern_0"


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ("site=mlp_act_9", 404, "Nearest: mlp_act_1, mlp_act_0"),
        ("site=mlp_act_0&unit=4", 400, "has no unit 4: it is one number, 0 to 3"),
        ("site=mlp_act_0&unit=one", 400, "it is a number, 0 at least"),
        ("site=z_0&unit=1", 400, "is 2 numbers, 0 to "),
        ("site=mlp_act_0&unit=9999999999999999999999", 400, "it is a number"),
    ],
)
def test_what_is_not_there_is_said(pages, asked, status, said):
    """A site or unit that is not there is refused, with what is."""
    answer = pages.get(f"/unit?{asked}")
    assert (answer.status_code, said in unescape(answer.text)) == (status, True)


def test_far_and_textless_datasets_read_nothing_unasked():
    """Elsewhere histogram and neighbours wait for a click; positions stand for text."""
    with odd_dataset(text=False, runs=1) as cache:
        app = TestClient(make_app(cache, url="acts", token=None), base_url="http://127.0.0.1")
        text = app.get("/unit?site=mlp_act_0&unit=1").text
        assert "<svg" not in text
        assert "data-load" not in text
        assert "quantile" not in text
        whole = app.get("/unit?site=mlp_act_0&unit=1&whole=1").text
    assert "<svg" in whole
    assert 'title="·69: 84, position 69">69</span>' in text
