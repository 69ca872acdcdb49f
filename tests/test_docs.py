"""The documentation is true: its code runs, its links lead somewhere."""

import contextlib
import functools
import io
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

import lazycache as lc

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted(
    [README, ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"), *(ROOT / "examples").glob("*.md")]
)
WITH_CODE = [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")]
WITH_LINKS = [p for p in PAGES if "](" in p.read_text(encoding="utf-8")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


loaded_once = functools.cache(lc.demo_model)


@pytest.fixture(autouse=True)
def one_demo_model(monkeypatch):
    """Pages that capture MiniLM share one: loading it takes longer than most pages."""
    monkeypatch.setattr(lc, "demo_model", loaded_once)


SNIPPET = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
"""Python of a page, and what it prints if the block behind it says so."""


def run_snippets(page: Path) -> dict:
    """Run the Python of a page from top to bottom; give the names that it leaves."""
    scope = {"__name__": "snippet"}
    for snippet, claimed in SNIPPET.findall(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed) if claimed else contextlib.nullcontext():
            exec(compile(snippet, name(page), "exec"), scope)
        if claimed:
            assert_same_text(printed.getvalue(), claimed)
    return scope


NUMBER = re.compile(r"-?\d+\.\d+")


def assert_same_text(printed: str, claimed: str) -> None:
    """Fail if a page claims another text, or numbers that differ by more than machines do."""
    assert NUMBER.split(printed.strip()) == NUMBER.split(claimed.strip())
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, claimed)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in WITH_CODE if p.name != "README.md"], ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """A reader who pastes the snippets of a page in order meets no error, and reads what it says.

    A block of text directly behind a snippet is what that prints.
    """
    monkeypatch.chdir(tmp_path)
    run_snippets(page)


@pytest.mark.parametrize(("printed", "claimed"), [("a 1.000\n", "a 1.02"), ("a\n", "b"), ("", "a")])
def test_a_page_that_claims_another_output_is_found(printed, claimed):
    """The comparison of what was printed with what a page says can fail."""
    with pytest.raises(AssertionError):
        assert_same_text(printed, claimed)


@pytest.mark.slow
def test_the_snippet_of_the_readme_does_what_its_comments_say(tmp_path, monkeypatch, capsys):
    """The shapes, dtypes and counts that the README's comments claim are those that come out."""
    monkeypatch.chdir(tmp_path)
    scope = run_snippets(README)
    x, first, mean, top = (scope[key] for key in ("x", "first", "mean", "top"))
    readme = README.read_text(encoding="utf-8")
    assert f"({x.shape[0]} examples, ≤ {x.shape[1]} tokens, {x.shape[2]})" in readme
    assert tuple(first.shape) == (3, 384)
    assert (tuple(mean.shape), mean.dtype) == ((384,), torch.float64)
    values = x.rows.load()
    assert torch.equal(first, values[_row_of(scope["cache"], example=0, position=0) :][:3])
    torch.testing.assert_close(torch.as_tensor(mean), values.double().mean(0))
    rows = top.fetchall()
    assert len(rows) == 5
    activations = scope["cache"]["mlp_act_3"].rows.load()[:, 697]
    assert [a for _, a in rows] == activations.topk(5).values.tolist()
    assert str(rows) in capsys.readouterr().out


def _row_of(cache, *, example: int, position: int) -> int:
    query = "SELECT row FROM tokens WHERE example = $e AND position = $p"
    return cache.sql(query, {"e": example, "p": position}).fetchone()[0]


FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.MULTILINE)


@functools.cache
def prose(page: Path) -> str:
    """A page without its code: brackets of Python are no links, its comments no headings."""
    return re.sub(r"`[^`\n]*\]\([^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """The ids that GitHub gives the headings of a page."""
    if not page.exists():
        return frozenset()
    found: dict[str, int] = {}
    ids = set()
    for heading in HEADING.findall(prose(page)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link its text
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        ids.add(f"{slug}-{count}" if count else slug)
    return frozenset(ids)


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere: to no file, or to no heading of it."""
    bad = []
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if ":" in path:  # of another place: https, mailto
            continue
        found = page.parent / path if path else page
        headed = not anchor or found.suffix != ".md" or anchor in anchors(found.resolve())
        if not (found.exists() and headed):
            bad.append(target)
    return bad


@pytest.mark.parametrize("page", WITH_LINKS, ids=name)
def test_the_links_of_a_page_lead_to_files_and_headings_that_exist(page):
    """A relative link in the documentation points at something in the repository."""
    assert broken(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path):
    """Of a page with good and bad links, the bad ones are named: the check can fail."""
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A `b_c`: d?\n\n## Twice\n\n## Twice\n", encoding="utf-8")
    good = "[1](other.md#a-b_c-d) [2](other.md#twice-1) [3](#here) [4](https://x.org#no)"
    bad = "[5](other.md#twice-2) [6](gone.md) [7](#there) ![8](gone.png)"
    code = "```python\nx[0](gone)\n# There\n```\n`a[1](b)`"
    page.write_text(f"# Here\n\n{good}\n\n{bad}\n\n{code}\n", encoding="utf-8")
    assert broken(page) == ["other.md#twice-2", "gone.md", "#there", "gone.png"]


HAND_WRITTEN = [
    p for p in DOCS.rglob("*.md") if not {"decisions", "api"} & {part.name for part in p.parents}
]


def test_the_map_of_the_documentation_leads_to_every_page():
    """Who begins at docs/README.md can reach each page; only decisions and the API are folders."""
    linked = {
        (DOCS / target.partition("#")[0]).resolve()
        for target in LINK.findall(prose(DOCS / "README.md"))
    }
    missing = [name(p) for p in HAND_WRITTEN if p.name != "README.md" and p.resolve() not in linked]
    assert missing == []


def test_the_architecture_names_every_part_of_the_package_and_its_layers():
    """Each folder and module of lazycache stands there; the layers are those that are checked."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    parts = [p for p in (ROOT / "lazycache").iterdir() if not p.name.startswith(("_", "py."))]
    said = {f"{p.name}/" if p.is_dir() else p.name for p in parts}
    assert {part for part in said if f"`{part}`" not in page} == set()
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    block = "\n".join(["```", *layers, "```"]).replace("lazycache.", "")
    assert block in page


def test_the_readme_marks_the_two_commands_of_a_new_machine():
    """Both are one line for a machine that has python3 alone; the first ends with the demo."""
    readme = README.read_text(encoding="utf-8")
    for mark, end in (
        ("demo", "/lazycache demo"),
        ("tests", "/python -m pytest -n auto --dist loadfile"),
    ):
        found = re.search(rf"<!-- command: {mark} -->\n```bash\n(.+)\n```", readme)
        assert found is not None
        assert found.group(1).startswith("python3 -m venv .venv && ")
        assert found.group(1).endswith(end)


MARKED = """<!-- command: {mark} -->
```bash
{command}
```
"""


def run_ci(folder: Path, readme: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a copy of the CI script beside another README."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "README.md").write_text(readme, encoding="utf-8")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "stale").touch()
    browser = folder / "bin" / "chromium"  # a test installs no package of the system
    browser.parent.mkdir()
    browser.symlink_to("/bin/true")
    kept = {"PATH": f"{browser.parent}:{os.environ['PATH']}", **environment}
    command = ["bash", folder / ".ci" / "run"]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["demo", "tests"])
def test_the_ci_fails_if_a_command_is_not_marked(missing, tmp_path):
    """A README whose mark is gone is no success without tests."""
    marks = {"demo", "tests"} - {missing}
    readme = "".join(MARKED.format(mark=mark, command="true") for mark in marks)
    done = run_ci(tmp_path, readme)
    assert done.returncode == 1
    assert done.stderr == f"README.md marks no command: {missing}\n"
    assert "==" not in done.stdout


@pytest.mark.parametrize(("environment", "found"), [({"CI": "true"}, "fresh"), ({}, "stale")])
def test_the_ci_reads_its_command_and_reuses_no_environment(environment, found, tmp_path):
    """The README's command is what runs; on a CI machine it meets no .venv of another checkout."""
    command = "if test -e .venv/stale; then echo stale; else echo fresh; fi; exit 3"
    readme = "".join(MARKED.format(mark=mark, command=command) for mark in ("demo", "tests"))
    done = run_ci(tmp_path, readme, **environment)
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == found
