"""What writes the values that are added to stored rows: begun with the first, ended once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from lazycache.capture.corpus.same_run import check_same_addition
from lazycache.catalog.identity import check_decides
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import LazycacheError
from lazycache.storage.store import Store
from lazycache.types import RowBatch, RunInfo
from lazycache.writer.parts import Place
from lazycache.writer.settings import Settings
from lazycache.writer.writer import IDLE, DatasetWriter, WriterProgress


class AdditionWriter:
    """Writes to a dataset that is there; until there is a value it changes nothing.

    Args:
        store: Where the dataset is.
        snapshot: What it holds.
        run: The run whose rows get values.
        note: The name and the provenance of what is added.
        settings: How much is queued, how much goes into a file and a commit.
        arrays: Gives the weights that belong to the sites, by name, when it begins.
    """

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        *,
        run: RunInfo,
        note: RunInfo,
        settings: Settings,
        arrays: Callable[[], Mapping[str, torch.Tensor]],
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._run = run
        self._note = note
        self._settings = settings
        self._arrays = arrays
        self._writer: DatasetWriter | None = None

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed."""
        return IDLE if self._writer is None else self._writer.progress

    def cover(self, batch: RowBatch, places: Mapping[str, Place]) -> None:
        """Hand the writer values for rows of one commit; see `DatasetWriter.cover`."""
        if self._writer is None:
            self._writer = self._begin()
        self._writer.cover(batch, places)

    def commit(self) -> int:
        """Make all values so far durable and visible; return the version."""
        return self._snapshot.version if self._writer is None else self._writer.commit()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Commit at the end, also after an error, which stays the one that is raised."""
        try:
            yield
        except BaseException as error:
            try:
                self._close()
            except LazycacheError as exc:
                if exc is not error:
                    error.add_note(f"What was not committed is lost: {exc}")
            raise
        self._close()

    def _begin(self) -> DatasetWriter:
        """Begin to write: the first change to the place."""
        check_decides(self._store)
        return DatasetWriter(
            self._store,
            snapshot=self._snapshot,
            run=self._run,
            notes=[self._note],
            settings=self._settings,
            arrays=self._arrays(),
            same_run=lambda theirs: check_same_addition(theirs.info, self._note.info),
        )

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
