"""Values and tables on a terminal and in a pipe."""

import io
import re

import pytest

from lazycache.views.render import _Console, cell, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [list, tuple])
def test_long_vectors_are_shortened(kind):
    """Lists and tuples show four elements and their length."""
    assert cell(kind(range(384))) == "(0, 1, 2, 3, … 384)"
    assert cell(kind([0.5, 1.0])) == "(0.5, 1)"
    assert cell(kind([kind(range(9))] * 5)).startswith("((0, 1, 2, 3, … 9), ")


def _printed(file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    console = _Console(highlight=False, file=file)
    console.print(table(["text [b]"], [["word " * 40 + "[red]x[/]"]]))
    console.print("plain " * 40)
    return file.getvalue()


def test_a_pipe_has_no_edge(monkeypatch):
    """Where nobody looks, a row is a line, whatever COLUMNS says."""
    lines = _printed(io.StringIO(), monkeypatch).splitlines()
    assert [line.rstrip() for line in lines] == [
        "text [b]",
        "word " * 40 + "[red]x[/]",
        ("plain " * 40).rstrip(),
    ]


def test_no_color_is_respected(monkeypatch):
    """Where NO_COLOR is set, a terminal gets no colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = re.compile(r"\x1b\[[\d;]*3\d")
    for value, expected in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        console = _Console(highlight=False, file=Terminal())
        console.print("[bold red]QueryError[/]")
        assert bool(coloured.search(console.file.getvalue())) is expected


def test_a_terminal_wraps(monkeypatch):
    """On a terminal, no line is longer than it is wide."""
    monkeypatch.setenv("TERM", "xterm")
    lines = _printed(Terminal(), monkeypatch).splitlines()
    assert len(lines) > 9
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in lines) <= 50
