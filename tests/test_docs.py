"""The documentation is true: its code runs, its links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
WITH_CODE = [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """A reader who pastes the snippets of a page in order meets no error."""
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    scope = {"__name__": "snippet"}
    for snippet in snippets:
        exec(compile(snippet, name(page), "exec"), scope)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_to_files_that_exist(page):
    """A relative link in the documentation points at something in the repository."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


def test_the_ci_runs_the_commands_of_the_readme():
    """The README marks the two commands that a new machine runs, and CI reads the second."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark in ("demo", "tests"):
        found = re.search(rf"<!-- command: {mark} -->\n```bash\n(.+)\n```", readme)
        assert found is not None
        assert "\n" not in found.group(1)
    assert "command_of tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
