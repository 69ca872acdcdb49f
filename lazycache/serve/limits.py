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
