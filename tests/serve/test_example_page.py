"""The page of an example: its text in colour, its columns, its attention, and what it refuses."""

import re
from html import unescape

import pytest
from serve_helpers import ODD


def shown(text):
    """The tokens of the first text of a page: class and letters."""
    part = text.split('<div class="text card">')[1].split("</div>")[0]
    found = re.findall(r'<(span|bdi) class="(.*?)" title=".*?">(.*?)</\1>', part, re.DOTALL)
    return [(look, unescape(re.sub("</?small>", "", letters))) for _, look, letters in found]


def test_text_has_every_token_and_obeys_none(pages):
    """Tokens that are markup, orders or nothing are written out, each in its place."""
    tokens = shown(pages.get("/example?example=0&run=main").text)
    assert len(tokens) == len(ODD)
    letters = [text for _, text in tokens]
    assert letters[0] == ODD[0]
    assert letters[2:6] == ["⏎\n", "⇥", "a\\x00b", "\\u202eabc\\u202c"]
    assert letters[7:10] == ["∅", "Paris", "{{ 7*7 }}"]
    assert {look for look, _ in tokens} == {"token"}


def test_tokens_have_the_colour_of_the_unit(pages):
    """The colour goes with the value, orange above zero and blue below."""
    looks = [look for look, _ in shown(pages.get("/example?example=1&site=mlp_act_0&unit=1").text)]
    assert looks == ["token p9", "token p9", "token p10"]
    looks = [look for look, _ in shown(pages.get("/example?example=1&site=mlp_act_0").text)]
    assert looks == ["token n9", "token n9", "token n10"]


def test_pooled_sites_say_their_one_number(pages):
    """Of a site with one row for each example the value is said, and the text has no colour."""
    text = pages.get("/example?example=1&site=pooled&unit=1").text
    assert "Unit 1 of this one: <strong>3</strong>" in text
    assert {look for look, _ in shown(text)} == {"token"}


def test_columns_are_told_and_long_ones_folded(pages):
    """Columns of users are beside the text, escaped; long ones are opened by the reader."""
    brief = pages.get("/example?example=0&run=main").text
    assert "<dt>label</dt><dd>&lt;b&gt;bold&lt;/b&gt;</dd>" in brief
    assert "<details><summary>label" in pages.get("/example?example=2").text


def test_an_id_of_several_runs_is_asked_about(pages):
    """Where two runs have an example 0 the reader chooses, and the choice is in the address."""
    text = pages.get("/example?example=0&site=mlp_act_0&unit=1").text
    links = [unescape(to) for to in re.findall(r'<li><a href="(.*?)"', text)]
    assert links == [
        f"/example?example=0&run={run}&site=mlp_act_0&unit=1" for run in ("main", "second")
    ]
    assert len(shown(pages.get(links[1]).text)) == 2


def test_examples_lead_to_each_other_and_keep_what_is_shown(pages):
    """Before and after follow run and id, with the same unit and layer."""
    text = pages.get("/example?example=2&site=mlp_act_0&unit=1&layer=pattern_0").text
    before, after = re.findall(r'rel="(?:prev|next)" href="(.*?)"', text)
    assert unescape(before).startswith("/example?example=1&run=main&site=mlp_act_0&unit=1")
    assert unescape(after).startswith("/example?example=0&run=second")
    assert unescape(after).endswith("layer=pattern_0")


def test_attention_has_a_map_for_each_head_and_one_alone(pages):
    """All heads are small maps; the chosen one has its tokens beside it and numbers on hover."""
    text = pages.get("/example?example=1&layer=0&head=2&query=0").text
    assert text.count("data:image/png;base64,") == 4
    assert text.count(": 0.33333</title>") == 9
    looks = text.split("looks at</h3>")[1]
    assert looks.count('class="token p10') == 3
    assert "query=2#head" in looks


def test_long_examples_are_drawn_without_labels(pages):
    """Of 70 tokens the map of a head has no labels: the text says what a token looks at."""
    text = pages.get("/example?example=2&layer=pattern_0&head=5").text
    drawn = text.split('<figure class="figure">')[1]
    assert drawn.count("<text") == 1
    assert "What the token at position 69 looks at" in text


def test_heads_have_their_numbers_of_the_model(pages):
    """Where only some heads were stored they are named as in the model."""
    text = pages.get("/example?example=1&layer=0").text
    assert re.findall(r'aria-label="head (\d)"', text) == ["0", "2", "5"]


def test_list_of_examples(pages):
    """Without an id all examples are listed, in order of run and id."""
    text = pages.get("/example").text
    links = [unescape(to) for to in re.findall(r'<td class="number"><a href="(.*?)"', text)]
    assert links == [
        "/example?example=0&run=main",
        "/example?example=1&run=main",
        "/example?example=2&run=main",
        "/example?example=0&run=second",
    ]
    assert "1 to 4 of 4" in text


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ("example=9", 404, "There is no example 9. Ids are from 0 to 2."),
        ("example=1&run=nobody", 404, "runs are main, second"),
        ("example=one", 400, "it is a whole number"),
        ("example=1&site=mlp", 404, "Nearest: mlp_act_1, mlp_act_0"),
        ("example=1&layer=7", 404, "'pattern_7' is not stored"),
        ("example=1&layer=0&head=3", 404, "There are: 0, 2, 5."),
        ("example=1&layer=mlp_act_0", 400, "no attention pattern"),
        ("start=4", 404, "There are 4 examples."),
    ],
)
def test_what_is_not_there_is_said(pages, asked, status, said):
    """An example, site, layer or head that is not there is refused, with what is."""
    answer = pages.get(f"/example?{asked}")
    assert (answer.status_code, said in unescape(answer.text)) == (status, True)
