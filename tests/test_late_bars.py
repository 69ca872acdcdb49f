"""Bars of reads: late, on the main thread alone, one at a time, and never where none is wanted."""

import re
import threading

import pytest
import torch
from test_progress import in_terminal

import lazycache as lc
from lazycache import late_bars
from lazycache.cache.aggregates import row_stream
from lazycache.late_bars import fed_late_bar, late_bar
from lazycache.progress import progress_bar
from lazycache.samples import pattern_cache, small_cache

SLOW = """
import time
from lazycache import late_bars
late_bars.LATE_SECONDS = 0.2
with late_bars.late_bar("reading resid_out_3", total=4_000_000_000) as bar:
    for _ in range(40):
        time.sleep({pause})
        bar.advance(100_000_000)
"""


class Drawn:
    """What would be drawn: its name, its total, and how far it came."""

    def __init__(self, what, total, unit, *, late):
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.start_t, self.closed = 0.0, False
        assert late

    def update(self, n):
        self.done += n

    def refresh(self):
        assert self.done >= 0

    def close(self):
        self.closed = True


class Eager(late_bars._Late):
    """A bar that is also drawn of a read that is one block, and done at once."""

    def advance(self, n):
        super().advance(n)
        if self._bar is None and not self.quiet:
            self._appear()


@pytest.fixture
def shown(monkeypatch):
    """The bars that a person at a terminal sees, of reads of any size and length."""
    found = []

    def draw(*args, **kwargs):
        found.append(Drawn(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(late_bars, "drawn", draw)
    monkeypatch.setattr(late_bars, "_Late", Eager)
    monkeypatch.setattr(late_bars, "is_seen", lambda: True)
    monkeypatch.setattr(late_bars, "LATE_SECONDS", 0)
    monkeypatch.setattr("lazycache.cache.tensor.lazy_tensor.FEW_BYTES", 0)
    return found


def test_a_long_read_shows_its_bytes_and_goes(tmp_path):
    """The bar appears when a read has taken a while, says kB, MB, GB, and leaves an empty line."""
    lines = in_terminal(80, code=SLOW.format(pause=0.02))
    assert lines[0].startswith("reading resid_out_3: ")
    assert re.search(r"\d [MG]B/4 GB \[00:0\d<00:0\d\]", lines[0])
    assert 2 <= int(lines[0].split("%")[0].split()[-1]) < 100  # not from the beginning
    assert lines[-1].strip() == ""
    assert max(map(len, lines)) <= 80


def test_a_short_read_shows_nothing():
    """What is done before a person would ask draws nothing."""
    assert in_terminal(80, code=SLOW.format(pause=0)) == []


def test_the_environment_turns_all_bars_off(monkeypatch):
    """LAZYCACHE_PROGRESS=0 silences bars of reads and of long work."""
    monkeypatch.setenv("LAZYCACHE_PROGRESS", "0")
    assert in_terminal(80, code=SLOW.format(pause=0.02)) == []
    assert in_terminal(80) == []


READS = {
    "a load": lambda cache: cache["resid_out_0"].rows[[5, 0, 3]].to(torch.float64).load(),
    "padded": lambda cache: cache["resid_out_0"].padded(),
    "an aggregate": lambda cache: (cache["resid_out_0"] * 2).quantile(0.5, "rows"),
    "what is computed": lambda cache: (cache["resid_out_0"] * 2).norm(dim=-1).mean(),
    "chosen rows": lambda cache: cache.where("position > 0")["resid_out_0"].std("rows"),
    "similar": lambda cache: cache.similar("resid_out_0", torch.tensor([1.0, 2.0]), 2),
    "a comparison": lambda cache: cache.similarity("resid_out_0", cache["resid_out_0"] * 2),
    "a probe": lambda cache: cache.correlate("resid_out_0", "position"),
    "a copy": lambda cache: cache.save("memory://late-bars", overwrite=True),
}


@pytest.mark.parametrize("what", READS)
def test_a_long_read_shows_a_bar_unless_the_cache_says_no(what, shown):
    """Every long read reports and ends its bar; `cache.progress = False` keeps it away."""
    cache = small_cache()
    READS[what](cache)
    assert shown
    assert all(bar.closed and 0 < bar.done <= bar.total for bar in shown)
    assert {"a copy": "save", "a comparison": "comparing resid_out_0, resid_out_0"}.get(
        what, "reading "
    ) in shown[0].what
    shown.clear()
    cache.progress = False
    READS[what](cache)
    assert shown == []


def test_patterns_and_values_report_too(shown, tmp_path):
    """A ragged site and values in memory have bars of their own."""
    pattern_cache()["pattern_0"].padded()
    assert [bar.what for bar in shown] == ["reading pattern_0"]
    lc.ActivationCache({"mean": torch.ones(4)}).save(tmp_path)
    assert [bar.what for bar in shown] == ["reading pattern_0", "save values"]
    assert not lc.open(tmp_path, progress=False).progress


def test_one_bar_at_a_time_and_only_on_the_main_thread(shown):
    """Inside a bar, also one that is not wanted, and on other threads, reads are silent."""
    with late_bar("outer", total=10) as bar, late_bar("inner", total=5) as inner:
        inner.advance(1)
        bar.advance(1)
    assert [one.what for one in shown] == ["outer"]
    shown.clear()
    with progress_bar("copy", total=1, unit="files", show=False):
        READS["similar"](small_cache())
    thread = threading.Thread(target=READS["similar"], args=(small_cache(),))
    thread.start()
    thread.join()
    assert shown == []
    fed_late_bar().advance(1)  # nobody reads: nobody is told


def test_an_error_ends_the_bar(shown):
    """After a read that failed the next one has its bar."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), late_bar("reading", total=10) as bar:
            bar.advance(1)
            raise ZeroDivisionError
    assert [one.closed for one in shown] == [True, True]


def test_an_interrupted_question_leaves_no_bar(shown, monkeypatch):
    """Ctrl-C in the work on a block ends the bar, though a shell keeps the traceback."""
    blocks = []

    def interrupted(_stream, block):
        blocks.append(block)
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return block

    monkeypatch.setattr(row_stream, "BLOCK_BYTES", 16)
    monkeypatch.setattr(row_stream.RowStream, "matrix", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:
        READS["an aggregate"](small_cache())
    assert [one.closed for one in shown] == [True]
    with late_bar("the next one", total=10) as bar:
        bar.advance(1)
    assert shown[-1].what == "the next one"
    assert kept.tb is not None
