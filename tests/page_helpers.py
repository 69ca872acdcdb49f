"""A tiny dataset with the tokens that a page must not obey, and clients of its explorer."""

from html.parser import HTMLParser
from typing import Any

import torch
from starlette.testclient import TestClient

from lazycache.mapping.activation_cache import ActivationCache
from lazycache.samples import ROWS, _written
from lazycache.serve.app import make_app
from lazycache.serve.limits import Limits
from lazycache.types import TOKENS, SiteBlock

HERE = "http://127.0.0.1"

ODD_TOKENS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "\u202eA",
    " a",
    "\n",
    "",
]

ODD_SITE = 'layers.<i>a"b:out'


def odd_cache() -> ActivationCache:
    """Two layers and a site of an odd name: 6 tokens of 3 examples, the numbers 0 to 11."""
    rows = torch.arange(2.0 * ROWS).reshape(-1, 2)
    sites = {name: SiteBlock(TOKENS, rows) for name in ("resid_out_0", "resid_out_1", ODD_SITE)}
    return _written(
        sites, tokens=ODD_TOKENS, sites={ODD_SITE: "layers.<i>"}, model={"class": "a.Net"}
    )


def client(cache: ActivationCache, *, token: str | None = None, **limits: Any) -> TestClient:
    """A browser without a screen: it keeps cookies and follows redirects."""
    app = make_app(cache, url="acts/<b>", token=token, limits=Limits(**limits))
    return TestClient(app, base_url=HERE, raise_server_exceptions=False)


class Tags(HTMLParser):
    """The elements of a page: (name, attributes), and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]
