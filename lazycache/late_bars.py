"""Bars of what is mostly short, and long at times: reads. They appear late and go when it is done.

A read needs no argument for them: whoever reads much opens a `late_bar`, and those who fetch its
bytes tell `fed_late_bar`. On threads other than the main one, such as those of a loader, all of it
is silent. `cache.progress = False` is said by `hush`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from lazycache.progress import BYTES, SILENT, Bar, Tqdm, drawn, is_seen, outermost

LATE_SECONDS = 2.0
"""How long a read takes before it shows a bar."""


class _Late:
    """A bar of work that may be short."""

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start, self._done = monotonic(), 0
        self._bar: Tqdm | None = None
        self.quiet = False
        """Whether it stays away after all."""

    def advance(self, n: int) -> None:
        # what is worked out of two tensors reads more bytes than it has
        new = n if self._total is None else min(n, self._total - self._done)
        self._done += new
        if self._bar is not None:
            self._bar.update(new)
        elif not self.quiet and self._done != self._total:
            self._appear()

    def note(self, text: str) -> None:
        """Show nothing: a read has no more to say."""

    def expect(self, seconds: float | None) -> None:
        """Believe nothing: its bytes say it."""

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _appear(self) -> None:
        seconds = monotonic() - self._start
        if seconds >= LATE_SECONDS:
            self._bar = drawn(self._what, self._total, self._unit, late=True)
            self._bar.start_t -= seconds
            self._bar.update(self._done)
            self._bar.refresh()


class _Here(threading.local):
    """What this thread reads."""

    late: _Late | None = None
    """Its bar."""
    fed: _Late | None = None
    """The same, if those who fetch the bytes tell it how far they are."""


_HERE = _Here()


@contextmanager
def late_bar(
    what: str, *, total: int | None, unit: str = BYTES, fed: bool = False
) -> Iterator[Bar]:
    """Give a bar that appears after two seconds and goes at the end, for what is mostly short.

    It is seen where that of `progress_bar` is, on the main thread alone, and not inside another.

    Args:
        what: What is being done, in two or three words.
        total: Units in all; None if nobody knows.
        unit: What is counted; `bytes` are shown as kB, MB, GB.
        fed: Whether those who do the work advance it, by `fed_late_bar`, and not the caller.

    Cost: some microseconds.

    Example:
        >>> with late_bar("resid_out_0", total=4096) as bar:
        ...     bar.advance(4096)
    """
    if threading.current_thread() is not threading.main_thread() or not is_seen():
        yield SILENT
        return
    with outermost() as first:
        if not first:
            yield SILENT
            return
        bar = _HERE.late = _Late(what, total, unit)
        _HERE.fed = bar if fed else None
        try:
            yield bar
        finally:
            _HERE.late = _HERE.fed = None
            bar.close()


def fed_late_bar() -> Bar:
    """Return the bar of the read that this thread works at, if it is to be fed; or a silent one."""
    return _HERE.fed or SILENT


def hush() -> None:
    """Keep the bar of the read that this thread works at away: what it reads wants none."""
    if _HERE.late is not None:
        _HERE.late.quiet = True
