"""How much a question of a page may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every question: a page is for looking, not for exporting."""

    seconds: float = 10.0
    """How long SQL may run before it is ended."""
    rows: int = 500
    """Rows of an answer that are shown."""
    columns: int = 60
    """Columns of it that are shown."""
    letters: int = 200
    """Letters of a cell that are shown."""
    held: int = 256 << 20
    """Bytes of an answer, as Arrow has them, that a page holds: rows beyond them are not shown."""
    nbytes: int = 64 << 20
    """Bytes of an answer, as Arrow has them, that can be taken away as a file."""
