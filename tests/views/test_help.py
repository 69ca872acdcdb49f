"""Help that teaches: groups, examples that run, completion; and it answers at once."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner
from views_helpers import minilm_folder

from lazycache.views.cli import COMMANDS, app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"

ONLY_PARSED = ("lazycache demo", "s3://", "--format hf", "lazycache serve")
"""What needs a minute, a bucket, another library's seconds, or never ends."""


def lines():
    """The examples of the help in its order, and those of the page; capture first."""
    of_help = [one.line for command in COMMANDS for one in command.examples]
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    of_page = [line for block in blocks for line in block.splitlines()]
    found = [*of_page, *of_help]
    assert all(line.startswith("lazycache ") for line in found)
    return list(dict.fromkeys(found))


def words(line):
    """What a shell makes of a line, without its name and without a redirected file."""
    return shlex.split(line.partition(" < ")[0])[1:]


def test_every_command_is_in_a_group_and_shows_examples():
    """The help has a panel for each group; that of a command ends with its examples, unfolded."""
    shown = CliRunner().invoke(app, [], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    panels = re.findall(r"─ (\w+) ─", shown.stdout)
    assert panels == ["Options", "Capture", "Read", "Ask", "Share", "Care"]
    for command in COMMANDS:
        name = command.function.__name__.replace("_", "-")
        assert re.search(rf"│ {name} +\S.* │\n", shown.stdout)
        out = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"}).stdout
        assert command.examples
        for example in command.examples:
            assert f"# {example.what}" in out
            assert f"│ {example.line} " in out  # one line at 80 columns: it can be copied


@pytest.mark.slow
def test_every_line_of_the_help_and_of_the_page_runs(dataset, tmp_path, monkeypatch):
    """What a reader copies works: over a model, a corpus and a dataset; the rest is understood."""
    for place in ("capturing", "reading"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model").symlink_to(minilm_folder())
    (tmp_path / "capturing" / "corpus.txt").write_text("Paris is in France.\n\nA cat sat.\n")
    (tmp_path / "reading" / "query.sql").write_text("SELECT 1 AS one")
    shutil.copytree(dataset, tmp_path / "reading" / "acts", copy_function=os.link)
    # what changes the dataset comes last
    for line in sorted(lines(), key=lambda line: words(line)[0] in ("seal", "remove-run")):
        if any(part in line for part in ONLY_PARSED):
            root = get_command(app)
            root.commands[words(line)[0]].make_context("x", words(line)[1:])
            continue
        of_model = words(line)[0] in ("sites", "capture")
        monkeypatch.chdir(tmp_path / ("capturing" if of_model else "reading"))
        done = CliRunner().invoke(app, words(line), input="SELECT 1 AS one")
        assert (line, done.exit_code, done.exception) == (line, 0, None)


def test_help_and_completion_load_nothing(dataset, tmp_path):
    """Help answers without torch, DuckDB or Arrow; completion knows the sites of a dataset."""
    heavy = "{'torch', 'numpy', 'duckdb', 'pyarrow', 'transformers'} & set(sys.modules)"
    code = (
        "import sys; from lazycache.views.cli import app\n"
        "try: app(prog_name='lazycache')\n"
        f"finally: print(sorted({heavy}), file=sys.stderr)"
    )
    lines = [f"lazycache head {dataset} resid_out_", f"lazycache remove-run {dataset} "]
    found = []
    for line in [None, *lines]:
        completing = (
            {}
            if line is None
            else {
                "_LAZYCACHE_COMPLETE": "complete_bash",
                "COMP_WORDS": line,
                "COMP_CWORD": "3",
            }
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *(["--help"] if line is None else [])],
            env={**os.environ, **completing},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == "[]\n"
        found.append(done.stdout)
    assert "remove-run" in found[0]
    assert found[1].split() == [f"resid_out_{layer}" for layer in range(6)]
    assert found[2].split() == ["main"]


def test_defaults_that_help_says_are_those_of_the_library():
    """Help loads no library, so it repeats these two numbers."""
    from lazycache.care.collecting import GRACE_SECONDS
    from lazycache.care.compacting import SHARD_BYTES

    assert (GRACE_SECONDS, SHARD_BYTES) == (24 * 3600, 256 << 20)
