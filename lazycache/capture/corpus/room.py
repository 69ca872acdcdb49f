"""Whether what a capture will write fits on the disk, judged from its first batch."""

from __future__ import annotations

from collections.abc import Callable

from lazycache.capture.corpus.measure import Measure, work_of
from lazycache.capture.corpus.work import Work
from lazycache.errors import CaptureError
from lazycache.progress import bytes_text
from lazycache.types import RowBatch, Sink

_MARGIN = 1.25
"""How far bytes that are judged from a part of the corpus must be above what is free."""


class FirstBatch:
    """A sink that has its first batch looked at before it is handed on.

    Args:
        sink: Takes the batches.
        check: Looks at the first one, and may raise; None looks at none.
    """

    def __init__(self, sink: Sink, check: Callable[[RowBatch], None] | None) -> None:
        self._sink = sink
        self._check = check

    def write(self, batch: RowBatch) -> None:
        """Hand a batch on."""
        check, self._check = self._check, None
        if check is not None:
            check(batch)
        self._sink.write(batch)

    def commit(self) -> int:
        """Make everything taken so far visible."""
        return self._sink.commit()


def check_room(rows: RowBatch, left: Work, *, is_exact: bool, free: int | None, url: str) -> None:
    """Refuse to begin what the disk has certainly no room for.

    Args:
        rows: The first batch.
        left: What is to be done, that batch included.
        is_exact: Whether `left` is known, not scaled from what was read so far.
        free: Bytes left; None where nobody knows.
        url: Where the dataset is.

    Raises:
        CaptureError: says how much is missing, and what to do.
    """
    if free is None:
        return
    measure = Measure()
    measure.write(rows)
    need = measure.nbytes(left, ran=work_of(rows))
    if need > free * (1.0 if is_exact else _MARGIN):
        raise CaptureError(
            f"This takes about {bytes_text(need)}, and {url} has {bytes_text(free)} left. Nothing "
            "was written. Capture fewer sites or positions, a smaller dtype or pool=..., choose "
            "another disk, or begin all the same with check_disk=False; dry_run=True shows what "
            "takes how much."
        )
