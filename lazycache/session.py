"""A capture while it runs: hooks and a writer for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.convert import check_dtype
from lazycache.capture.example_ids import ExampleIds
from lazycache.capture.provenance import describe_capture, differences
from lazycache.capture.recorder import Recorder
from lazycache.capture.resolve import resolve
from lazycache.capture.select import Positions, check_positions
from lazycache.capture.sites import HookPoint
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.target import find_target
from lazycache.errors import CaptureError, LazycacheError
from lazycache.storage.store import Store
from lazycache.types import EXAMPLES, RunInfo
from lazycache.writer.settings import Settings
from lazycache.writer.writer import DatasetWriter, WriterProgress


class Capture:
    """What `lc.capture` returns: inside its `with` block every forward pass is stored.

    Made without touching the dataset; the block makes it, if there is none, and commits at its end.
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
        self._points = resolve(model, sites)
        self._target = find_target(self._store, resume=resume, overwrite=overwrite)
        self._before = self._target.snapshot
        self._details = describe_capture(
            model, self._points, tokenizer=tokenizer, dtype=dtype, positions=positions
        )
        self._recording = {
            "tokenizer": tokenizer,
            "positions": check_positions(positions),
            "dtype": check_dtype(dtype),
            "columns": columns,
        }
        self._stack = ExitStack()
        self.name = name
        """Name of the run."""
        self.committed = _examples(self._before, name)
        """Ids of the examples that the run has committed before."""
        self.first_example = _first_example(self._before, name)
        """The id that the first example of the run has, if it is counted."""

    def check(self, **details: Any) -> None:
        """Add details to the provenance of the run; refuse to continue one that was another's.

        Raises:
            CaptureError: names what differs.
        """
        self._details |= details
        known = None if self._before is None else self._before.runs.get(self.name)
        found = [] if known is None else differences(known.info, self._details)
        if found:
            raise CaptureError(
                f"Run {self.name!r} of {self._store.url} was captured differently: "
                f"{'; '.join(found)}. Continue it as it was, or add another run: run='name'."
            )

    @property
    def points(self) -> list[HookPoint]:
        """Where the sites are in the model."""
        return list(self._points.values())

    def __enter__(self) -> Self:
        """Make the dataset if there is none, start the writer, put the hooks on the model."""
        run = RunInfo(self.name, {**self._details, "first_example": self.first_example})
        self._store = self._open_place(True)
        snapshot = self._target.prepare(self._store)
        with ExitStack() as stack:
            self._writer = DatasetWriter(
                self._store, snapshot=snapshot, run=run, **asdict(self._settings)
            )
            stack.push(self._finish)
            self._recorder = Recorder(
                self._model,
                self._points,
                self._writer,
                next_example=max(self.first_example, self.committed.after),
                taken=self.committed,
                **self._recording,
            )
            stack.enter_context(self._recorder)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the hooks off the model and commit, also after an error."""
        self._stack.__exit__(kind, error, trace)

    def annotate(self, *, example: Any = None, mask: Any = None, **columns: Any) -> None:
        """Say what the examples of the next forward pass are.

        Args:
            example: An id (int) for each, unique within the run; None counts on.
            mask: [batch, length], nonzero for real tokens; before `attention_mask`.
            **columns: One value (str, int, float, bool, None) per example.

        Raises:
            CaptureError: an id that was used before, or a column that cannot be stored.
        """
        self._recorder.annotate(example=example, mask=mask, **columns)

    def commit(self) -> int:
        """Make all forward passes so far durable and visible; return the version.

        Cost: waits until what is queued is written and synced.
        """
        return self._writer.commit()

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed."""
        return self._writer.progress

    def _finish(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """Commit whole forward passes. An error on its way out stays the one that is raised."""
        try:
            self._writer.close()
        except LazycacheError as exc:
            if error is None:
                raise
            if exc is not error:
                error.add_note(f"What was not committed is lost: {exc}")


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
