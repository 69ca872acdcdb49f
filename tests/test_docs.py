"""The documentation is true: its code runs, its links lead somewhere."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
WITH_CODE = [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def run_snippets(page: Path) -> dict:
    """Run the Python of a page from top to bottom; give the names that it leaves."""
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    scope = {"__name__": "snippet"}
    for snippet in snippets:
        exec(compile(snippet, name(page), "exec"), scope)
    return scope


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in WITH_CODE if p.name != "README.md"], ids=name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """A reader who pastes the snippets of a page in order meets no error."""
    monkeypatch.chdir(tmp_path)
    run_snippets(page)


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


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_links_of_a_page_lead_to_files_that_exist(page):
    """A relative link in the documentation points at something in the repository."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


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
