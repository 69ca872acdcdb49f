"""What writes the rows of a capture: begun with the first of them, ended once."""

from __future__ import annotations

from collections.abc import Callable

from lazycache.capture.sites.projection import Unchanged
from lazycache.errors import CaptureError, LazycacheError
from lazycache.peers import Peers, check_begun
from lazycache.recording import Recording
from lazycache.run_place import RunPlace
from lazycache.types import RowBatch, RunInfo
from lazycache.writer.settings import Settings
from lazycache.writer.writer import IDLE, DatasetWriter, WriterProgress


class RunWriter:
    """The sink of a capture. A dataset that is replaced stays until there is a row for the new one.

    Args:
        place: Where the run is written to.
        recording: What is captured: its weights are stored with the run.
        peers: The processes that write the run.
        settings: How much is queued, how much goes into a file and a commit.
        run: Gives the name and the provenance of the run, when it begins.
    """

    def __init__(
        self,
        place: RunPlace,
        recording: Recording,
        peers: Peers,
        *,
        settings: Settings,
        run: Callable[[], RunInfo],
    ) -> None:
        self._place = place
        self._recording = recording
        self._peers = peers
        self._settings = settings
        self._run = run
        self._check: Callable[[RowBatch], None] | None = None
        self._unchanged: Unchanged | None = None
        self._writer: DatasetWriter | None = None
        self._is_sealed = False

    @property
    def has_begun(self) -> bool:
        """Whether anything was changed at the place."""
        return self._writer is not None

    @property
    def waits_for_rows(self) -> bool:
        """Whether the first row decides if anything is changed."""
        return self._place.is_replaced or self._check is not None

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed."""
        return IDLE if self._writer is None else self._writer.progress

    def check_first(self, check: Callable[[RowBatch], None]) -> None:
        """Hand the first batch to a check before anything is written; it may raise."""
        self._check = check

    def begin(self) -> DatasetWriter:
        """Begin to write: the first change to the place.

        Raises:
            LazycacheError: weights that cannot be stored, or the store failed.
        """
        arrays = self._recording.arrays()  # before anything changes there: may not be readable
        self._unchanged = self._recording.unchanged()
        snapshot = self._place.prepare()
        run, together = self._run(), self._peers.commits_together
        self._writer = DatasetWriter(
            self._place.store,
            snapshot=snapshot,
            run=run,
            settings=self._settings,
            arrays={} if together and self._peers.ranks.rank else arrays,  # once is enough
            group=self._peers.group if together else None,
            same_run=lambda theirs: check_begun(theirs, run, url=self._place.url),
        )
        return self._writer

    def write(self, batch: RowBatch) -> None:
        """Hand a batch to the writer, which the first one begins.

        Raises:
            CaptureError: the run was sealed, or the batch does not fit.
        """
        if self._is_sealed:
            raise CaptureError(
                f"Run {self._run().name!r} was sealed: nothing is added to it any more."
            )
        check, self._check = self._check, None
        if check is not None:
            check(batch)
        writer = self._writer or self.begin()
        if self._unchanged is not None:
            self._unchanged.check()
        writer.write(batch)

    def commit(self) -> int:
        """Make all rows so far durable and visible; return the version, 0 before the first."""
        return 0 if self._writer is None else self._writer.commit()

    def seal(self) -> None:
        """Take no more rows."""
        self._is_sealed = True

    def end(self, error: BaseException | None) -> None:
        """Commit and stop. An error on its way out stays the one that is raised."""
        if self._writer is None and (error is not None or self._place.is_replaced):
            return
        if error is not None and self._peers.commits_together and self._writer is not None:
            self._peers.leave()  # nobody commits now: the others learn it here
            self._writer.abort()
            return
        try:
            if error is None:
                self._peers.each(self._close)  # behind the block everything is there
            else:
                self._close()
        except LazycacheError as exc:
            if error is None:
                raise
            if exc is not error:
                error.add_note(f"What was not committed is lost: {exc}")

    def _close(self) -> None:
        (self._writer or self.begin()).close()
