"""The pages in a browser: nothing of a dataset runs, a keyboard is enough, links can be shared."""

import re
import shutil
from urllib.parse import quote

import pytest
from serve_helpers import ODD_SITE

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

PAGES = (
    "/",
    "/unit?site=mlp_act_0&unit=1",
    f"/unit?site={quote(ODD_SITE)}&unit=0",
    "/unit?site=pooled&unit=1",
    "/unit?site=nothing",
    "/example",
    "/example?example=0",
    f"/example?example=0&run=main&site={quote(ODD_SITE)}&unit=1&layer=0&head=2",
    "/example?example=2&layer=pattern_0&head=0",
    "/sql",
    "/sql?q=SELECT+token+FROM+tokens",
)
"""All kinds of pages; of the dataset with odd tokens."""

CONTRAST = """
() => {
  const rgb = (text) => text.match(/[0-9.]+/g).map(Number).slice(0, 3);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((c) => c / 255)
      .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ink = (selector) => {
    const mine = light(getComputedStyle(document.querySelector(selector)).color);
    return (Math.max(mine, paper) + 0.05) / (Math.min(mine, paper) + 0.05);
  };
  return [paper, ...["h1", "main a", ".muted", "dt"].map(ink)];
}
"""
"""How bright the page is, and how far its texts are from that (WCAG)."""


@pytest.fixture(scope="module")
def browser():
    """A Chromium, if this machine has one."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("there is no Chromium on this machine")
    with driver.sync_playwright() as playing:
        opened = playing.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, served):
    """A tab that collects what went wrong in it: `tab.troubles`."""
    context = browser.new_context(base_url=served, viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.troubles = []
    note = opened.troubles.append
    opened.on("console", lambda said: note(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: note(str(error)))
    opened.on("dialog", lambda dialog: (note(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.on("request", lambda one: None if _ours(one.url, served) else note(one.url))
    yield opened
    context.close()


def _ours(url, served):
    return url.startswith((served, "data:image/png;"))


def _open(tab, place):
    tab.goto(place)
    _settle(tab)


def _settle(tab):
    """Wait for the parts that come after a page; no script of ours: the page would refuse it."""
    tab.locator("[aria-busy]").wait_for(state="detached")


def test_nothing_of_a_dataset_runs_and_no_page_is_wider_than_its_window(tab):
    """No page has an error, a blocked script, a dialog, a request elsewhere, or a bar below."""
    wide = []
    for place in PAGES:
        _open(tab, place)
        for width in (1200, 420):
            tab.set_viewport_size({"width": width, "height": 900})
            if tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append((place, width))
        assert tab.locator("main script, main img, [style], [onmouseover]").count() == 0
    # that the browser tells of a page with the status 404 is no fault of the page
    said = [one for one in tab.troubles if "status of 404" not in one]
    assert (said, wide) == ([], [])


def test_keyboard_is_enough(tab):
    """Tab begins with the way to the content, / finds the first field, Enter asks, ] goes on."""
    _open(tab, "/unit?site=mlp_act_0&unit=1")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to content"
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.name") == "site"
    tab.keyboard.press("Tab")
    tab.keyboard.type("3")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/unit?site=mlp_act_0&unit=3")
    tab.keyboard.press("[")
    tab.wait_for_url("**/unit?site=mlp_act_0&unit=2")
    _open(tab, "/example")
    tab.keyboard.press("/")
    tab.keyboard.type("bold")
    assert tab.locator("#examples tbody tr:visible").count() == 2
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/example?example=0&run=main")


def test_neighbours_come_after_the_page(tab):
    """The table of neighbours is put into the page, and leads to them."""
    _open(tab, "/unit?site=mlp_act_0&unit=1")
    tab.locator("[data-load] a").first.click()
    tab.wait_for_url("**/unit?site=mlp_act_0&unit=0")
    assert tab.locator("h1").inner_text() == "mlp_act_0 unit 0"


def test_tokens_lead_to_what_they_look_at(tab):
    """A click on a token of a head shows what that token looks at."""
    _open(tab, "/example?example=2&layer=pattern_0&head=2")
    tab.locator("#head ~ .text a").nth(8).click()
    tab.wait_for_url(re.compile("query=8#head"))
    assert tab.locator("#head ~ h3").inner_text() == "What the token at position 8 looks at"


def test_address_of_a_page_reproduces_it(tab, browser, served):
    """Who opens a link in another browser sees the same page."""
    _open(tab, "/unit?site=mlp_act_0&unit=1")
    tab.get_by_label("one row of each example").check()
    tab.get_by_role("button", name="Show").click()
    tab.wait_for_url(re.compile("distinct=1"))
    _settle(tab)
    other = browser.new_page()
    _open(other, tab.url)
    assert other.locator("main").inner_html() == tab.locator("main").inner_html()
    other.close()


@pytest.mark.parametrize(("scheme", "bright"), [("light", True), ("dark", False)])
def test_light_and_dark_pages_can_be_read(tab, scheme, bright):
    """The page is bright or dark as the reader wants it, and texts have a contrast of 4.5."""
    tab.emulate_media(color_scheme=scheme)
    _open(tab, "/unit?site=mlp_act_0&unit=1")
    paper, *contrasts = tab.evaluate(CONTRAST)
    assert (paper > 0.5) is bright
    assert min(contrasts) >= 4.5
