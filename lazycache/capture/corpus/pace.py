"""How much of a corpus was read and done, and what that says of the rest."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from lazycache.capture.corpus.extract import Progress
from lazycache.capture.corpus.items import Item
from lazycache.capture.corpus.work import Work


class Pace:
    """Counts a corpus while it is read, so that the rest can be judged by what was seen.

    Args:
        total: Examples in all; None if nobody knows.
        done: Ids of the examples that are stored already.
        parts: Processes that share the work; the progress is that of one.

    Example:
        >>> pace = Pace(4, done={0})
        >>> _ = list(pace.reading([Item(0, None, {}), Item(1, None, {})]))
        >>> pace.left()
        Work(examples=3, tokens=3.0, squares=3.0)
        >>> pace.seconds_left(Progress(examples=1, tokens=1, batches=1, seconds=5.0))
        10.0
    """

    def __init__(self, total: int | None, *, done: Container[int], parts: int = 1) -> None:
        self._total = total
        self._done = done
        self._parts = parts
        self._read = Work()
        self._skipped = Work()

    def reading(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pass items on, counted."""
        for item in items:
            work = Work.of([item.length])
            self._read += work
            if item.example in self._done:
                self._skipped += work
            yield item

    @property
    def is_whole(self) -> bool:
        """Whether the whole corpus was read, so that `left` is exact."""
        return self._total is not None and self._read.examples >= self._total

    def left(self) -> Work | None:
        """Return what was to be done when the run began; None if nobody knows how much there is."""
        if self._total is None or not self._read.examples:
            return None
        return self._read.grown(max(self._total, self._read.examples)) - self._skipped

    def seconds_left(self, done: Progress) -> float | None:
        """Say how long the rest will take at the pace so far; None if nobody knows."""
        left = self.left()
        if left is None or not done.tokens:
            return None
        tokens = left.tokens / self._parts
        return max(0.0, tokens - done.tokens) * done.seconds / done.tokens
