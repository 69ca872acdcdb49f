import signal
import threading
import urllib.request

import pytest
import torch
from page_helpers import ODD_SITE, Tags, client, odd_cache
from typer.testing import CliRunner

import lazycache as lc
from lazycache.samples import pattern_cache
from lazycache.serve import dataset_views
from lazycache.views.cli import app


@pytest.fixture(scope="module")
def cache():
    return odd_cache()


def test_the_overview_says_what_is_stored(cache):
    """Sites by group, by layer and one by one, rows, bytes, run and commit: from the log alone."""
    before = cache.io.requests
    page = Tags(client(cache).get("/").text)
    links = [one.get("href") for one in page.all("a")]
    assert "resid_out_0 … resid_out_1 (2)" in page.text
    assert links.count("/unit?site=resid_out_1") == 2
    assert links.count("/unit?site=layers.%3Ci%3Ea%22b%3Aout") == 2
    for said in (ODD_SITE, "acts/<b>", "float32", "[2]", "48", "layers.<i>", "Net", "main"):
        assert said in page.text, said
    assert cache.io.requests == before
    assert cache.io.statistics_requests == 0


def test_the_page_asks_for_rows_when_it_is_there(cache):
    """What takes a read is not waited for: the first rows of tables come behind the page."""
    browser = client(cache)
    places = Tags(browser.get("/").text).all("div")
    parts = [one["data-load"] for one in places if "data-load" in one]
    assert parts == ["/overview/norms", "/overview/samples"]
    rows = Tags(browser.get(parts[1]).text)
    assert "<script>alert(1)</script>" in rows.text
    assert "6 rows" in rows.text


def test_norms_of_layers_are_drawn_from_statistics(tmp_path):
    """Of a dataset on this machine the norm of each layer is a point; no row is read for it."""
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    with lc.capture(model, tmp_path, ["0", "1"]), torch.no_grad():
        model(torch.full((2_000, 4), 3.0))
    with lc.open(tmp_path) as near:
        norms = client(near).get("/overview/norms").text
        assert "*:out" in norms
        assert "6 to 6" in norms
        assert norms.count("<circle") == 2
        assert (near.io.requests, near.io.statistics_requests) == (0, 2)


def test_norms_of_what_is_far_are_not_read():
    """A dataset in a bucket is not read for a small picture: the page says so."""
    found = pattern_cache()
    assert "Not known for little" in client(found).get("/overview/norms").text
    assert found.io.statistics_requests == 0


def test_the_last_runs_are_shown(odd, monkeypatch):
    """Of many runs the last are listed, and the page says how many came before."""
    monkeypatch.setattr(dataset_views, "RUNS", 1)
    text = Tags(client(odd).get("/").text).text
    assert "1 earlier runs" in text
    assert ("Run second" in text, "Run main" in text) == (True, False)


def test_a_condition_is_shown(cache):
    """An explorer of some rows says which, and counts them."""
    later = cache.where("position > 0")
    page = Tags(client(later).get("/").text)
    assert "Only rows where position > 0" in page.text
    found = client(later).get("/sql", params={"q": "SELECT count(*) AS n FROM tokens"})
    assert '<td class="number">3</td>' in found.text


def test_the_command_serves_until_it_is_interrupted(tmp_path, capfd, monkeypatch):
    """`lazycache serve` prints a link that works and opens it, and Ctrl-C ends it in order."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are for the main thread")
    odd_cache().save(str(tmp_path))
    opened, seen = [], {}

    def look() -> None:
        visit = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        try:
            with visit.open(opened[0], timeout=30) as answer:
                seen.update(status=answer.status, url=answer.url, text=answer.read().decode())
        finally:
            signal.raise_signal(signal.SIGINT)

    def browse(link: str) -> None:
        opened.append(link)
        threading.Thread(target=look).start()

    monkeypatch.setattr("webbrowser.open", browse)
    result = CliRunner().invoke(app, ["serve", str(tmp_path), "--port=0", "--token=abc", "--open"])
    assert result.exit_code == 0
    assert result.output == f"Explorer: {opened[0]}\nCtrl-C ends it.\n"
    assert opened[0].endswith("/?token=abc")
    assert (seen["status"], seen["url"]) == (200, opened[0].removesuffix("?token=abc"))
    assert "resid_out_1" in seen["text"]
    assert capfd.readouterr().err == ""
