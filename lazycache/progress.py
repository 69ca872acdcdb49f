"""What a person reads while long work runs: bars (the one owner of tqdm), sizes, durations.

Bars are quiet when nobody looks (no terminal and no notebook), where `LAZYCACHE_PROGRESS=0` is set,
and inside each other: the outermost is shown. `late_bars.py` has those of reads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

COLUMNS, LINES = 80, 24
"""What a terminal of unknown size is taken for."""

LEAST_BAR = 6
"""Letters that notes leave to the bar itself."""

BYTES = "bytes"
"""The unit that is shown as kB, MB, GB."""

_KILO = 1000


class Bar(Protocol):
    """What long work reports to."""

    def advance(self, n: int) -> None:
        """Count `n` more units as done."""
        ...

    def note(self, text: str) -> None:
        """Show a short text behind the bar, such as a rate."""
        ...

    def expect(self, seconds: float | None) -> None:
        """Say how long the rest will take; until then the bar guesses from its units."""
        ...


class _TqdmBar:
    """A bar on the screen."""

    def __init__(self, bar: Tqdm) -> None:
        self._bar = bar

    def advance(self, n: int) -> None:
        self._bar.update(n)

    def note(self, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)

    def expect(self, seconds: float | None) -> None:
        self._bar.expected = None if seconds is None else duration_text(seconds)


class Tqdm(Protocol):
    """The part of tqdm that is used, and what is added to it."""

    expected: str | None
    """How long the rest takes, if it is known."""
    start_t: float
    """When the work began."""

    def update(self, n: int) -> object:
        """Count."""
        ...

    def set_postfix_str(self, s: str, refresh: bool) -> object:  # tqdm's own
        """Show behind the bar."""
        ...

    def refresh(self) -> object:
        """Draw it."""
        ...

    def close(self) -> object:
        """End it."""
        ...


class _Silent:
    """No bar."""

    def advance(self, n: int) -> None:
        """Count nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def expect(self, seconds: float | None) -> None:
        """Believe nothing."""


SILENT: Bar = _Silent()
"""The bar that nobody sees."""


class _Here(threading.local):
    """What this thread is at."""

    busy = False
    """Whether there is a bar, shown or not: what it is made of has none."""


_HERE = _Here()


@contextmanager
def progress_bar(what: str, *, total: int | None, unit: str, show: bool) -> Iterator[Bar]:
    """Give a bar for the length of the block.

    Args:
        what: What is being done, in two or three words.
        total: Units in all; None if nobody knows.
        unit: What is counted: `examples`, `shards`; `bytes` are shown as kB, MB, GB.
        show: False never shows a bar, nor those of what is done inside. True shows one where a
            person can see it: on a terminal or in a notebook.

    Example:
        >>> with progress_bar("reading", total=3, unit="shards", show=False) as bar:
        ...     bar.advance(3)
    """
    with outermost() as first:
        if not first or not show or total == 0 or not is_seen():
            yield SILENT
            return
        bar = drawn(what, total, unit, late=False)
        try:
            yield _TqdmBar(bar)
        finally:
            bar.close()


@contextmanager
def outermost() -> Iterator[bool]:
    """Tell whether this is the outermost bar of this thread; those inside are silent.

    For bars.
    """
    first, _HERE.busy = not _HERE.busy, True
    try:
        yield first
    finally:
        if first:
            _HERE.busy = False


def bytes_text(count: float) -> str:
    """Bytes as a person reads them, in decimal units.

    Example:
        >>> bytes_text(1_536_000), bytes_text(12)
        ('1.54 MB', '12 B')
    """
    unit, *larger = ("B", "kB", "MB", "GB", "TB")
    while count >= _KILO and larger:
        count /= _KILO
        unit, *larger = larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"


def duration_text(seconds: float) -> str:
    """Time as a clock shows it.

    Example:
        >>> duration_text(75), duration_text(7384)
        ('01:15', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def is_seen() -> bool:
    """Whether a person can see a bar, and has not said that none is wanted."""
    wanted = os.environ.get("LAZYCACHE_PROGRESS", "").lower() not in {"0", "false", "no", "off"}
    return wanted and (sys.stderr.isatty() or _in_notebook())


def drawn(what: str, total: int | None, unit: str, *, late: bool) -> Tqdm:
    """Return a bar on the screen; a late one is drawn when it is refreshed, and goes at its end."""
    unit = unit.strip()
    layout = _format(total, "" if unit == BYTES else f" {unit}")
    bar: Tqdm = _expecting_tqdm()(
        total=total,
        desc=what,
        unit=unit,
        bar_format=layout,
        leave=not late,
        delay=1e-9 if late else 0,
        **_width(),
    )
    return bar


def _expecting_tqdm() -> Any:
    """Return the class of bars for where we are, which can be told how long the rest takes."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]  # it ships no types

    class Expecting(tqdm):  # type: ignore[misc]  # the same
        expected: str | None = None

        @property
        def format_dict(self) -> dict[str, Any]:
            known: dict[str, Any] = super().format_dict
            text = bytes_text if known["unit"] == BYTES else "{:,}".format
            known |= {"done": text(known["n"]), "all": text(known["total"] or 0)}
            if known["ncols"] and known["postfix"]:
                known["postfix"] = _fitting(known["postfix"], known["ncols"] - _taken(known))
            return known if self.expected is None else {**known, "remaining": self.expected}

    return Expecting


def _taken(known: dict[str, Any]) -> int:
    """Return the columns that a bar without its note takes."""
    counts = f"{known['prefix']}: 100%|| {known['all']}/{known['all']} {known['unit']}"
    return len(counts) + len(" [00:00<00:00, ]") + LEAST_BAR


def _fitting(note: str, columns: int) -> str:
    """Return the parts of a note that fit, the first of them always."""
    first, *parts = note.split(", ")
    for part in parts:
        longer = f"{first}, {part}"
        if len(longer) > columns:
            break
        first = longer
    return first


def _format(total: int | None, unit: str) -> str:
    """Lay a bar out: `capture:  32%|███▏      | 32/100 examples [00:01<00:02, note]`."""
    if total is None:
        return f"{{desc}}: {{done}}{unit} [{{elapsed}}{{postfix}}]"
    return (
        f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {{done}}/{{all}}{unit} "
        "[{elapsed}<{remaining}{postfix}]"
    )


def _width() -> dict[str, Any]:
    """Say how wide a bar is: as wide as the terminal, or 80 where that says it has no size."""
    try:
        unknown = os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except OSError:  # a notebook: its bars have the width of the page
        unknown = False
    return {"ncols": COLUMNS, "nrows": LINES} if unknown else {"dynamic_ncols": True}


def _in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel, without importing IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"
