from pathlib import Path

import pytest
from page_helpers import HERE, Tags, client, odd_cache

from lazycache.faces.colours import STEPS, background
from lazycache.serve.app import STATIC
from lazycache.serve.headers import ALWAYS

PAGES = ("/", "/overview/norms", "/overview/samples", "/sql?q=SELECT+*+FROM+tokens")


@pytest.fixture(scope="module")
def browser():
    return client(odd_cache())


@pytest.mark.parametrize(
    "address", [*PAGES, "/sql.csv?q=SELECT+1", "/nowhere", "/sql?q=nonsense", "/static/app.js"]
)
def test_every_answer_has_the_policy(browser, address):
    """Pages, files, refusals and errors say that nothing but our own files runs or is loaded."""
    headers = browser.get(address).headers
    assert {name: headers[name] for name in ALWAYS} == dict(ALWAYS)
    assert headers["cache-control"] == ("no-cache" if "static" in address else "no-store")


def test_the_policy_allows_no_inline_script_or_style():
    """What a token brings could neither run nor look like ours."""
    policy = dict(part.split(" ", 1) for part in ALWAYS["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["style-src"]) == ("'self'", "'self'")
    assert "unsafe" not in str(policy)


@pytest.mark.parametrize("address", PAGES)
def test_pages_have_no_inline_script_or_style(browser, address):
    """A page has one script and one sheet, of files; tokens are text, and stay in one direction."""
    answer = browser.get(address)
    assert answer.status_code == 200
    page = Tags(answer.text)
    assert [one.get("src") for one in page.all("script")] in ([], ["/static/app.js"])
    assert not page.all("style")
    assert not page.all("img")
    assert not [
        name for _, found in page.tags for name in found if name.startswith(("on", "style"))
    ]
    assert "\u202e" not in answer.text


def test_what_pages_load_is_here():
    """No address of a page or of its files is on another machine."""
    files = [*STATIC.iterdir(), *(STATIC.parent / "templates").iterdir()]
    assert len(files) > 8
    for file in files:
        text = Path(file).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name


def test_colours_of_values_are_those_of_notebooks():
    """The sheet has each step of faces/colours.py, as a background and as a filling."""
    sheet = (STATIC / "style.css").read_text()
    for step in range(1, STEPS + 1):
        for name, value in ((f".p{step}", step), (f".n{step}", -step)):
            colour = background(value)
            assert f"{name} {{ background: {colour}; fill: {colour}; }}" in sheet


def test_errors_are_pages_of_their_own(browser):
    """A page that is not there and a site that is not there say so, with the nearest names."""
    lost = browser.get("/nowhere")
    assert (lost.status_code, Tags(lost.text).text.count("There is no such page")) == (404, 2)
    assert "Nothing is at /nowhere." in lost.text
    site = browser.get("/unit", params={"site": "resid_ot_1", "unit": "0"})
    assert site.status_code == 404
    assert "Nearest: resid_out_1" in site.text
    assert browser.get(f"{HERE}/static/../app.py").status_code == 404


def test_a_fault_of_ours_shows_no_traceback(browser, monkeypatch):
    """What nobody expected is a page without the inside of the program."""
    monkeypatch.setattr("lazycache.serve.pages.overview.overview", lambda _: 1 / 0)
    answer = browser.get("/overview/norms")
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.text
    assert "overview.py" not in answer.text
    assert answer.headers["content-security-policy"] == ALWAYS["content-security-policy"]
