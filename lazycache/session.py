"""A capture while it runs: hooks and a writer for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from lazycache.capture.corpus.earlier import Earlier
from lazycache.capture.corpus.provenance import describe_capture, differences
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.capture.inputs.where import Where
from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.projection import Unchanged, check_projection, projection_weight
from lazycache.capture.sites.resolve import resolve_sites
from lazycache.capture.values.layouts import Layouts, make_layouts
from lazycache.capture.values.reduce import Transform, make_reductions
from lazycache.capture.values.select import Positions
from lazycache.catalog import fields
from lazycache.catalog.target import Target, find_target
from lazycache.errors import CaptureError, CorruptShardError, LazycacheError
from lazycache.peers import ALONE, Peers, check_begun
from lazycache.storage.free_space import free_bytes
from lazycache.storage.store import Store
from lazycache.types import RowBatch, RunInfo, Sink
from lazycache.writer.ranks import Ranks
from lazycache.writer.sealing import seal_run
from lazycache.writer.settings import Settings
from lazycache.writer.writer import IDLE, DatasetWriter, WriterProgress


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
        pool: str | None = None,
        transform: Mapping[str, Transform] | None = None,
        where: Where | None = None,
        heads: Mapping[str, Iterable[int]] | None = None,
        units: Mapping[str, Iterable[int]] | None = None,
        hooked: bool = True,
        layout: Layouts = None,
        ranks: Ranks = ALONE,
        commit: str = "own",
    ) -> None:
        self._peers = Peers(ranks, commit=commit, overwrite=overwrite)
        self._model = model
        self._open_place = open_place
        self._store = open_place(False)
        self._settings = settings
        self._resume, self._overwrite = resume, overwrite
        resolved = resolve_sites(model, sites)
        self._points, self._projections = resolved.points, resolved.projections
        self._settings = replace(self._settings, tiles=make_layouts(self._points, layout))
        for bound in self._projections.values():
            check_projection(model, bound)
        self._recording: dict[str, Any] = {
            "tokenizer": tokenizer,
            "positions": positions,
            "dtype": dtype,
            "columns": columns,
            "where": where,
            "pool": pool,
            "transform": transform,
            "heads": heads,
            "units": units,
            "hooked": hooked,
        }
        self.details: Mapping[str, Any] = describe_capture(
            model,
            self._points,
            tokenizer=tokenizer,
            dtype=dtype,
            positions=positions,
            where=where,
            pool=pool,
            reductions=make_reductions(
                self._points, pool=pool, transform=transform, heads=heads, units=units
            ),
        )
        """The provenance of the run, as JSON values."""
        self.keeps_all = where is None and not callable(positions)
        """Whether how many rows an example gives follows from how long it is."""
        self._check: Callable[[RowBatch], None] | None = None
        self._is_sealed = False
        self._writer: DatasetWriter | None = None
        self._unchanged: Unchanged | None = None
        self._recorder: Recorder | None = None
        self.name = _checked(name)
        """Name of the run."""
        self._look()
        self.rehearsal(Nowhere())  # refuses arguments that do not fit, as early as can be

    def _look(self) -> None:
        """Look at the place that is written to: what is there, and what of this run."""
        self._target: Target = find_target(
            self._store, resume=self._resume, overwrite=self._overwrite
        )
        self.earlier = Earlier(self._store, self._target.snapshot, run=self.name)
        """What the run has committed before."""

    def _new_recorder(self) -> Recorder:
        return self._recording_to(_Outlet(self), taken=self.earlier.committed)

    def rehearsal(self, sink: Sink) -> Recorder:
        """Return a recorder that fills another sink, as if nothing were stored yet."""
        return self._recording_to(sink, taken=ExampleIds())

    def _recording_to(self, sink: Sink, *, taken: ExampleIds) -> Recorder:
        return Recorder(
            self._model,
            self._points,
            sink,
            next_example=self._next_example(),
            step=self.ranks.world_size,
            taken=taken,
            # there may be nothing left to do, or nothing for this process
            allow_empty=self._resume or self.ranks.world_size > 1,
            **self._recording,
        )

    def _next_example(self) -> int:
        """Count on behind what was committed of the ids that this process counts."""
        step = self.ranks.world_size
        first = self.ranks.first_id(self.earlier.first_example)
        last = self.earlier.committed.last_of(step=step, start=first)
        return first if last is None else last + step

    def check_first(self, check: Callable[[RowBatch], None]) -> None:
        """Hand the first batch to a check before anything is written; it may raise."""
        self._check = check

    def describe(self, **details: Any) -> None:
        """Add JSON values to the provenance of the run."""
        self.details = {**self.details, **details}

    def check(self) -> None:
        """Refuse to continue a run that was captured differently.

        Raises:
            CaptureError: names what differs.
        """
        known = self.earlier.info
        found = [] if known is None else differences(known, self.details)
        if found:
            raise CaptureError(
                f"Run {self.name!r} of {self._store.url} was captured differently: "
                f"{'; '.join(found)}. Continue it as it was, or add another run: run='name'."
            )

    def free_bytes(self) -> int | None:
        """Return the bytes that can be written there, what will be replaced counted as free.

        None of a bucket. Cost: one system call; of what will be replaced, a listing.
        """
        free = free_bytes(self._store)
        if free is None or not self._target.replace or self._writer is not None:
            return free
        return free + sum(info.size for info in self._store.list(""))

    @property
    def url(self) -> str:
        """Where the dataset is."""
        return self._store.url

    @property
    def queue_bytes(self) -> int:
        """Bytes that may wait to be written."""
        return self._settings.queue_bytes

    @property
    def points(self) -> Mapping[str, HookPoint]:
        """Where the sites are in the model, by name."""
        return self._points

    def __enter__(self) -> Self:
        """Look again at the place, put the hooks on the model, make the dataset."""
        if self._recorder is not None:
            raise CaptureError("A capture is entered once; call lc.capture again for another.")
        self._begin()
        self._recorder = self._new_recorder()
        self._recorder.__enter__()
        try:
            if self._peers.group is not None:
                self._peers.each(self._start)
            elif not self._target.replace and self._check is None:
                self._start()
        except BaseException as error:
            self._recorder.__exit__(type(error), error, error.__traceback__)
            self._peers.leave()
            raise
        return self

    def _begin(self) -> None:
        try:
            self._peers.begin(make=self._make, look=self._look_again)
            self._peers.compare(self._described(), url=self.url)
        except BaseException:
            self._peers.leave()
            raise

    def is_needed(self, mine: bool) -> bool:
        """Whether there is something to do, here or in a process that this one begins with."""
        needed = self._peers.any(mine)
        if not needed:
            self._peers.leave()
        return needed

    def _look_again(self) -> None:
        """Look once more: others may have committed since, or rank 0 has made the dataset."""
        if self._peers.group is not None and self.ranks.rank:
            self._resume, self._overwrite = True, False
        self._look()
        self.check()
        if self.earlier.is_sealed:
            raise CaptureError(
                f"Run {self.name!r} of {self.url} is sealed: it is complete. Give what you capture "
                "a run of its own, run='name', or replace the dataset with overwrite=True."
            )

    def _make(self) -> None:
        """Make or replace the dataset: what the others then look at."""
        self._look_again()
        snapshot = self._target.prepare(self._open_place(True))
        self._target = Target(snapshot, replace=False, resume=True)

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
        arrays = {  # before anything changes there: they may not be readable
            name: projection_weight(self._model, bound) for name, bound in self._projections.items()
        }
        self._unchanged = Unchanged(self._model, self._projections)
        self._store = self._open_place(True)
        snapshot = self._target.prepare(self._store)
        run = self._described()
        together = self._peers.commits_together
        self._writer = DatasetWriter(
            self._store,
            snapshot=snapshot,
            run=run,
            settings=self._settings,
            arrays={} if together and self.ranks.rank else arrays,  # once is enough
            group=self._peers.group if together else None,
            same_run=lambda theirs: check_begun(theirs, run, url=self.url),
        )
        return self._writer

    def _described(self) -> RunInfo:
        return RunInfo(self.name, {**self.details, "first_example": self.earlier.first_example})

    def _write(self, batch: RowBatch) -> None:
        """Hand a batch to the writer, which the first one begins."""
        if self._is_sealed:
            raise CaptureError(f"Run {self.name!r} was sealed: nothing is added to it any more.")
        check, self._check = self._check, None
        if check is not None:
            check(batch)
        writer = self._writer or self._start()
        if self._unchanged is not None:
            self._unchanged.check()
        writer.write(batch)

    def _finish(self, error: BaseException | None) -> None:
        """Commit. An error on its way out stays the one that is raised."""
        try:
            self._end(error)
        finally:
            self._peers.leave()

    def _end(self, error: BaseException | None) -> None:
        if self._writer is None and (error is not None or self._target.replace):
            return
        if error is not None and self._peers.commits_together and self._writer is not None:
            self._peers.leave()  # nobody commits now: the others learn it here
            self._writer.abort()
            return
        try:
            (self._writer or self._start()).close()
            if error is None:
                self._peers.each(lambda: None)  # behind the block everything is there
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

    def take(self, name: str, values: torch.Tensor) -> None:
        """Take a site of the forward pass that runs; for a capture that puts up no hooks itself.

        Raises:
            CaptureError: no such site, or values that do not fit.
        """
        if self._recorder is None:
            raise CaptureError("Values are taken in the with block.")
        self._recorder.take(name, values)

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which forward passes of this thread are not stored."""
        if self._recorder is None:
            raise CaptureError("A capture is paused in its with block.")
        return self._recorder.paused()

    def commit(self) -> int:
        """Make all forward passes so far durable and visible; return the version.

        A loop over a key-value cache of this thread is over with it.

        Cost: waits until what is queued is written and synced.

        Raises:
            StorageError: the store failed; what was committed before stays.
        """
        if self._recorder is not None:
            self._recorder.end_generation()
            self._recorder.drain()
        if self._writer is None:
            return 0
        return self._writer.commit()

    def seal(self) -> int:
        """Commit, and say that the run is complete: nobody adds rows to it any more.

        Under `torch.distributed` every process calls it, and rank 0 seals when all have committed;
        where ranks were given, the process that is the last to end. Returns the version.

        Raises:
            CaptureError: nothing of the run is committed.
            CommitConflictError: somebody has removed the run meanwhile.
            StorageError: the store failed.

        Cost: a commit, a read of the log, one record.
        """
        self.commit()
        self._peers.each(lambda: None)  # all have committed; who has failed is not waited for
        version = self._peers.first(lambda: seal_run(self._store, self.name, rank=self.ranks.rank))
        self._is_sealed = True
        return version

    @property
    def ranks(self) -> Ranks:
        """Which of the processes that write the run this one is."""
        return self._peers.ranks

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed, and seconds waited for the store."""
        if self._writer is None:
            return IDLE
        return self._writer.progress


class _Outlet:
    """The sink of the recorder: the writer of the capture, begun with the first batch."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def write(self, batch: RowBatch) -> None:
        """Hand a batch to the writer."""
        self._capture._write(batch)  # noqa: SLF001  # one object in two

    def commit(self) -> int:
        """Make everything taken so far visible."""
        return self._capture.commit()


class Nowhere:
    """The sink of a recorder that is only made, to see whether its arguments fit."""

    def write(self, batch: RowBatch) -> None:
        """Take nothing."""

    def commit(self) -> int:
        """Commit nothing."""
        return 0


def _checked(name: str) -> str:
    """Return the name of a run if the log takes it."""
    try:
        return fields.checked_name(name)
    except (CorruptShardError, TypeError) as exc:
        raise CaptureError(f"run={name!r} cannot name a run: {exc}") from exc
