"""The site of the documentation: what `mkdocs build --strict` needs, without building it."""

import json
from pathlib import Path

import pytest
from api_pages import FOLDER, pages
from mkdocs.config import load_config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = {"CHANGELOG.md", "examples/README.md", "design/decisions/README.md"}  # by .ci/docs_site.py


@pytest.fixture(scope="module")
def config():
    """What mkdocs reads."""
    return load_config(str(ROOT / ".mkdocs.yml"))


def leaves(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else leaves(value)


def test_the_navigation_has_every_page_once(config):
    """But for the notes of decisions, which have a list; and no page that there is not."""
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    notes = {page for page in there if page.startswith("design/decisions/")}
    listed = list(leaves(config["nav"]))
    assert sorted(listed) == sorted((there - notes) | MADE)


def test_the_site_loads_nothing_from_elsewhere(config):
    """No fonts of others, no analytics, no scripts or styles by address."""
    assert config["theme"]["font"] is False
    assert "analytics" not in config["extra"]
    assert config["extra_css"] == config["extra_javascript"] == []
    assert "://" not in json.dumps(config["nav"])


@pytest.mark.parametrize("file", sorted(pages()))
def test_a_page_of_the_reference_is_what_the_docstrings_say(file):
    """`python tests/api_pages.py` writes it again after a change of a docstring or a name."""
    assert (FOLDER / file).read_text(encoding="utf-8") == pages()[file]


def test_the_reference_has_no_other_pages():
    """A page that is not made any more is deleted."""
    assert {path.name for path in FOLDER.iterdir()} == set(pages())
