"""What a bar says while a model runs over a corpus: speed, queue, room, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lazycache.capture.corpus.extract import Progress
from lazycache.progress import Bar, bytes_text
from lazycache.writer.writer import WriterProgress


class Watched(Protocol):
    """What is written while the model runs."""

    @property
    def progress(self) -> WriterProgress:
        """How far the writer is."""
        ...

    @property
    def queue_bytes(self) -> int:
        """Bytes that may wait to be written."""
        ...

    def free_bytes(self) -> int | None:
        """Bytes that are left; None where nobody knows."""
        ...


def reporter(
    bar: Bar, watched: Watched, seconds_left: Callable[[Progress], float | None]
) -> Callable[[Progress], None]:
    """Return what tells a bar after each batch what was done since it was told last."""
    told = 0

    def report(done: Progress) -> None:
        nonlocal told
        bar.note(_note(watched, done))
        bar.expect(seconds_left(done))
        bar.advance(done.examples - told)
        told = done.examples

    return report


def _note(watched: Watched, done: Progress) -> str:
    """What stands beside the count, the most important first: a narrow terminal cuts it off."""
    seconds = max(done.seconds, 1e-9)
    now = watched.progress
    parts = [
        f"{done.tokens / seconds:,.0f} tokens/s",
        f"{bytes_text(now.bytes / seconds)}/s",
        f"queue {now.queued_bytes / watched.queue_bytes:.0%}",
    ]
    free = watched.free_bytes()
    return ", ".join(parts if free is None else [*parts, f"{bytes_text(free)} free"])
