"""The progress bar as a person sees it: in a terminal, in one of no size, and in a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

SCRIPT = """
from lazycache.progress import progress_bar
with progress_bar("capture", total={total}, unit=" examples", show={show}) as bar:
    bar.expect({expect})
    for _ in range(25):
        bar.note("1,234 tokens/s")
        bar.advance(4)
"""


def in_terminal(columns, *, total=100, show=True, expect=None, code=SCRIPT):
    """Run the script with a terminal for its errors; give the lines that it drew there."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    code = code.format(total=total, show=show, expect=expect)
    with subprocess.Popen([sys.executable, "-c", code], stderr=slave) as process:
        os.close(slave)
        drawn = b""
        while chunk := _read(master):
            drawn += chunk
    os.close(master)
    assert process.returncode == 0
    return [line for line in re.split(r"[\r\n]+", drawn.decode()) if line]


def _read(master):
    try:
        return os.read(master, 4096)
    except OSError:  # Linux says EIO when the other end is closed
        return b""


@pytest.mark.parametrize("columns", [0, 80, 120])
def test_a_terminal_of_any_size_shows_plain_counts(columns):
    """The bar counts whole examples and fits the terminal; one of no size counts as 80 columns."""
    lines = in_terminal(columns)
    assert re.fullmatch(
        r"capture: 100%\|█+\| 100/100 examples \[00:0\d<00:00, 1,234 tokens/s\]", lines[-1]
    )
    assert max(map(len, lines)) <= (columns or 80)
    assert len(lines[-1]) > (columns or 80) - 3


def test_a_narrow_terminal_loses_the_end_of_a_note_and_not_the_bar():
    """Whole parts of a note are left out, the last first, until the bar has its letters."""
    code = SCRIPT.replace("1,234 tokens/s", "1,234 tokens/s, 98.3 MB/s, queue 1%, 30 GB free")
    line = in_terminal(80, code=code)[-1]
    assert re.fullmatch(
        r"capture: 100%\|█{6,}\| 100/100 examples \[00:0\d<00:00, 1,234 tokens/s, 98.3 MB/s\]", line
    )
    assert in_terminal(120, code=code)[-1].endswith("98.3 MB/s, queue 1%, 30 GB free]")


def test_without_a_total_the_bar_counts():
    """Of a stream nobody knows the end of, the bar says how much was done."""
    line = in_terminal(80, total=None)[-1]
    assert re.fullmatch(r"capture: 100 examples \[00:0\d, 1,234 tokens/s\]", line)


def test_a_bar_that_is_told_how_long_it_takes_says_so():
    """What is known of the rest goes before what the count would suggest."""
    lines = in_terminal(80, expect=4523)
    assert re.search(r"\[00:0\d<1:15:23, 1,234 tokens/s\]", lines[-1])


def test_a_bar_that_is_not_wanted_is_not_there():
    """show=False draws nothing on a terminal, and nor does work of which there is none."""
    assert in_terminal(80, show=False) == []
    assert in_terminal(80, total=0) == []


def test_a_pipe_sees_nothing():
    """Where nobody looks, nothing is written."""
    code = SCRIPT.format(total=100, show=True, expect=None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
