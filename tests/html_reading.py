"""Reads HTML pictures as a browser does: which elements there are, what is said of each token."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

TAGS = {"div", "span", "bdi", "small", "strong", "svg", "rect", "line", "text", "title"}
ATTRIBUTES = {"style", "title", "dir", "class"}


@dataclass
class Shown(HTMLParser):
    """What a page shows: `Shown.of(html).tokens` are (text, title, looks), in order."""

    tokens: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    open: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, html: str) -> Shown:
        """Read a page."""
        shown = cls()
        shown.feed(html)
        shown.close()
        assert not shown.open, "every element is closed"
        return shown

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if "svg" not in self.open and tag != "svg":
            self.attributes |= set(said)
        token = tag in {"span", "bdi"} and ", position " in said.get("title", "")
        token = token and not said["title"].startswith("example")
        if token:
            self.tokens.append(("", said["title"], said.get("style", said.get("class", ""))))
        self.open.append("token" if token else tag)

    def handle_endtag(self, _tag: str) -> None:
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "svg" in self.open:
            return
        self.text += data
        if "token" in self.open:
            before, *rest = self.tokens[-1]
            self.tokens[-1] = (before + data, *rest)
