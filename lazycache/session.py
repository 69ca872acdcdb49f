"""A capture while it runs: hooks and a writer for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.example_ids import ExampleIds
from lazycache.capture.provenance import describe_capture, differences
from lazycache.capture.recorder import Recorder
from lazycache.capture.resolve import resolve
from lazycache.capture.select import Positions
from lazycache.capture.sites import HookPoint
from lazycache.catalog import fields
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.table_columns import column_by_example
from lazycache.catalog.target import Target, find_target
from lazycache.errors import CaptureError, CorruptShardError, LazycacheError
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, RowBatch, RunInfo
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter, WriterProgress


class Capture:
    """What `lc.capture` returns: inside its `with` block every forward pass is stored.

    Making it touches nothing. Entering it makes the dataset, if there is none, and puts the hooks
    on the model; leaving it removes them and commits. It is entered once.

    Example:
        >>> import lazycache as lc
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> with lc.capture(model, "memory://capture-doctest", "0", overwrite=True) as run:
        ...     _ = model(torch.tensor([[1, 2, 3]]))
        ...     run.commit()
        1
    """

    def __init__(
        self,
        model: nn.Module,
        open_place: Callable[[bool], Store],
        sites: str | Iterable[str],
        *,
        name: str,
        resume: bool,
        overwrite: bool,
        tokenizer: Any,
        positions: Positions,
        dtype: torch.dtype | None,
        columns: Mapping[str, Any] | None,
        settings: Settings,
    ) -> None:
        self._model = model
        self._open_place = open_place
        self._store = open_place(False)
        self._settings = settings
        self._resume, self._overwrite = resume, overwrite
        self._points = resolve(model, sites)
        self._recording = {
            "tokenizer": tokenizer,
            "positions": positions,
            "dtype": dtype,
            "columns": columns,
        }
        self._details = describe_capture(
            model, self._points, tokenizer=tokenizer, dtype=dtype, positions=positions
        )
        self._writer: DatasetWriter | None = None
        self._recorder: Recorder | None = None
        self.name = _checked(name)
        """Name of the run."""
        self._look()
        self._new_recorder()  # refuses arguments that do not fit, as early as can be

    def _look(self) -> None:
        """Look at the place that is written to: what is there, and what of this run."""
        self._target: Target = find_target(
            self._store, resume=self._resume, overwrite=self._overwrite
        )
        self._before = self._target.snapshot
        self.committed = _examples(self._before, self.name)
        """Ids of the examples that the run has committed before."""
        self.first_example = _first_example(self._before, self.name)
        """The id that the first example of the run has, if it is counted."""

    def _new_recorder(self) -> Recorder:
        return Recorder(
            self._model,
            self._points,
            _Outlet(self),
            next_example=max(self.first_example, self.committed.after),
            taken=self.committed,
            allow_empty=self._resume,  # there may be nothing left to do
            **self._recording,
        )

    def describe(self, **details: Any) -> None:
        """Add JSON values to the provenance of the run."""
        self._details |= details

    def check(self) -> None:
        """Refuse to continue a run that was captured differently.

        Raises:
            CaptureError: names what differs.
        """
        known = None if self._before is None else self._before.runs.get(self.name)
        found = [] if known is None else differences(known.info, self._details)
        if found:
            raise CaptureError(
                f"Run {self.name!r} of {self._store.url} was captured differently: "
                f"{'; '.join(found)}. Continue it as it was, or add another run: run='name'."
            )

    def stored(self, column: str) -> dict[int, Any]:
        """Return a column of `examples` of this run by example id, as far as it is committed."""
        if self._before is None:
            return {}
        return column_by_example(self._store, self._before, run=self.name, column=column)

    @property
    def points(self) -> list[HookPoint]:
        """Where the sites are in the model."""
        return list(self._points.values())

    def __enter__(self) -> Self:
        """Look again at the place, put the hooks on the model, make the dataset."""
        if self._recorder is not None:
            raise CaptureError("A capture is entered once; call lc.capture again for another.")
        self._look()  # others may have committed since
        self.check()
        self._recorder = self._new_recorder()
        self._recorder.__enter__()
        try:
            if not self._target.replace:
                self._start()
        except BaseException as error:
            self._recorder.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the hooks off the model and commit whole forward passes, also after an error."""
        assert self._recorder is not None, "left only after it was entered"
        try:
            self._recorder.__exit__(kind, error, trace)
        except BaseException as exc:
            self._finish(exc)
            raise
        self._finish(error)

    def _start(self) -> DatasetWriter:
        """Begin to write: the first change to the place.

        A dataset that is replaced stays until there is something to replace it with.
        """
        self._store = self._open_place(True)
        snapshot = self._target.prepare(self._store)
        run = RunInfo(self.name, {**self._details, "first_example": self.first_example})
        self._writer = DatasetWriter(
            self._store, snapshot=snapshot, run=run, settings=self._settings
        )
        return self._writer

    def _finish(self, error: BaseException | None) -> None:
        """Commit. An error on its way out stays the one that is raised."""
        if self._writer is None:
            return
        try:
            self._writer.close()
        except LazycacheError as exc:
            if error is None:
                raise
            if exc is not error:
                error.add_note(f"What was not committed is lost: {exc}")

    def annotate(
        self,
        *,
        example: Any = None,
        mask: Any = None,
        columns: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Say what the examples of the next forward pass are.

        Args:
            example: An id (int) for each, unique within the run; None counts on.
            mask: [batch, length], nonzero for real tokens; before `attention_mask`.
            columns: Name to one value (str, int, float, bool, None) per example.
            **more: The same, for names that are Python names: `label=[...]`.

        Raises:
            CaptureError: an id that was used before, or a column that cannot be stored.
        """
        if self._recorder is None:
            raise CaptureError("annotate is for the next forward pass: call it in the with block.")
        self._recorder.annotate(example=example, mask=mask, columns=columns, **more)

    def commit(self) -> int:
        """Make all forward passes so far durable and visible; return the version.

        Cost: waits until what is queued is written and synced.

        Raises:
            StorageError: the store failed; what was committed before stays.
        """
        if self._writer is None:
            return 0
        return self._writer.commit()

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed, and seconds waited for the store."""
        if self._writer is None:
            return WriterProgress(0, 0, 0, 0, 0, 0.0)
        return self._writer.progress


class _Outlet:
    """The sink of the recorder: the writer of the capture, begun with the first batch."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def write(self, batch: RowBatch) -> None:
        """Hand a batch to the writer."""
        writer = self._capture._writer or self._capture._start()  # noqa: SLF001  # one object in two
        writer.write(batch)

    def commit(self) -> int:
        """Make everything taken so far visible."""
        return self._capture.commit()


def _checked(name: str) -> str:
    """Return the name of a run if the log takes it."""
    try:
        return fields.checked_name(name)
    except (CorruptShardError, TypeError) as exc:
        raise CaptureError(f"run={name!r} cannot name a run: {exc}") from exc


def _examples(snapshot: Snapshot | None, run: str) -> ExampleIds:
    """Ids of the examples that a run has committed."""
    if snapshot is None or run not in snapshot.runs:
        return ExampleIds()
    extents = snapshot.extents(EXAMPLES)
    own = extents.example[extents.run == list(snapshot.runs).index(run)]
    return ExampleIds(own.tolist())


def _first_example(snapshot: Snapshot | None, run: str) -> int:
    """Where a run counts from: where it began to, or behind everything in the dataset."""
    if snapshot is None:
        return 0
    if run in snapshot.runs:
        return int(snapshot.runs[run].info.get("first_example", 0))
    ids = snapshot.extents(EXAMPLES).example
    return int(ids.max()) + 1 if len(ids) else 0
