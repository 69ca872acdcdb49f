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
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.capture.inputs.where import Where
from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.layouts import Layouts, make_layouts
from lazycache.capture.values.reduce import Transform
from lazycache.capture.values.select import Positions
from lazycache.catalog import fields
from lazycache.errors import CaptureError, CorruptShardError
from lazycache.peers import ALONE, Peers
from lazycache.recording import Recording
from lazycache.run_place import RunPlace
from lazycache.run_writer import RunWriter
from lazycache.storage.store import Store
from lazycache.types import RowBatch, RunInfo, Sink
from lazycache.writer.ranks import Ranks
from lazycache.writer.sealing import seal_run
from lazycache.writer.settings import Settings
from lazycache.writer.writer import WriterProgress


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
        self._recording = Recording(
            model,
            sites,
            tokenizer=tokenizer,
            positions=positions,
            dtype=dtype,
            columns=columns,
            pool=pool,
            transform=transform,
            where=where,
            heads=heads,
            units=units,
            hooked=hooked,
        )
        tiles = make_layouts(self.points, layout)
        self.details: Mapping[str, Any] = self._recording.describe()
        """The provenance of the run, as JSON values."""
        self._is_left = False
        self._recorder: Recorder | None = None
        self.name = _checked(name)
        """Name of the run."""
        self._place = RunPlace(open_place, run=self.name, resume=resume, overwrite=overwrite)
        self._settings = replace(settings, tiles=tiles)
        self._writer = RunWriter(
            self._place,
            self._recording,
            self._peers,
            settings=self._settings,
            run=self._described,
        )
        self.rehearsal(Nowhere())  # refuses arguments that do not fit, as early as can be

    def _new_recorder(self) -> Recorder:
        return self._recording_to(self._writer, taken=self.earlier.committed)

    def rehearsal(self, sink: Sink) -> Recorder:
        """Return a recorder that fills another sink, as if nothing were stored yet."""
        return self._recording_to(sink, taken=ExampleIds())

    def _recording_to(self, sink: Sink, *, taken: ExampleIds) -> Recorder:
        return self._recording.recorder(
            sink,
            next_example=self._next_example(),
            step=self.ranks.world_size,
            taken=taken,
            # there may be nothing left to do, or nothing for this process
            allow_empty=self._place.resumes or self.ranks.world_size > 1,
        )

    def _next_example(self) -> int:
        """Count on behind what was committed of the ids that this process counts."""
        step = self.ranks.world_size
        first = self.ranks.first_id(self.earlier.first_example)
        last = self.earlier.committed.last_of(step=step, start=first)
        return first if last is None else last + step

    def check_first(self, check: Callable[[RowBatch], None]) -> None:
        """Hand the first batch to a check before anything is written; it may raise."""
        self._writer.check_first(check)

    def describe(self, **details: Any) -> None:
        """Add JSON values to the provenance of the run."""
        self.details = {**self.details, **details}

    def check(self) -> None:
        """Refuse to continue a run that was captured differently.

        Raises:
            CaptureError: names what differs.
        """
        self._place.check(self.details)

    def free_bytes(self) -> int | None:
        """Return the bytes that can be written there, what will be replaced counted as free.

        None of a bucket. Cost: one system call; of what will be replaced, a listing.
        """
        free = self._place.free_bytes()
        if free is None or self._writer.has_begun:
            return free
        return free + self._place.freed_bytes()

    @property
    def earlier(self) -> Earlier:
        """What the run has committed before."""
        return self._place.earlier

    @property
    def keeps_all(self) -> bool:
        """Whether how many rows an example gives follows from how long it is."""
        return self._recording.keeps_all

    @property
    def url(self) -> str:
        """Where the dataset is."""
        return self._place.url

    @property
    def queue_bytes(self) -> int:
        """Bytes that may wait to be written."""
        return self._settings.queue_bytes

    @property
    def points(self) -> Mapping[str, HookPoint]:
        """Where the sites are in the model, by name."""
        return self._recording.points

    def __enter__(self) -> Self:
        """Look again at the place, put the hooks on the model, make the dataset."""
        if self._recorder is not None:
            raise CaptureError("A capture is entered once; call lc.capture again for another.")
        try:
            self._begin()
            self._recorder = self._new_recorder()
            self._recorder.__enter__()
        except BaseException:
            self._peers.leave()
            raise
        try:
            if self._peers.group is not None:
                self._peers.each(self._writer.begin)
            elif not self._writer.waits_for_rows:
                self._writer.begin()
        except BaseException as error:
            self._recorder.__exit__(type(error), error, error.__traceback__)
            self._peers.leave()
            raise
        return self

    def _begin(self) -> None:
        """Wait for the others, and agree with them, before anything changes; then look again."""
        self._peers.join()
        self._peers.compare(RunInfo(self.name, self.details), url=self.url)
        self._peers.begin(
            make=lambda: self._place.make(self.details),
            join=lambda: self._place.join(self.details),
            alone=lambda: self._place.look_again(self.details),
        )
        self._peers.check_one_place(self._place.uuid, url=self.url)
        self._peers.compare(self._described(), url=self.url)

    def agree(self, look: Callable[[], bool]) -> bool:
        """Whether there is something to do, here or in a process that this one begins with.

        Raises:
            CaptureError: `look` failed in another process. What it raises here is raised.
        """
        try:
            needed = self._peers.any(look)
        except BaseException:
            self._peers.leave()
            raise
        if not needed:
            self._peers.leave()
        return needed

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

    def _described(self) -> RunInfo:
        return RunInfo(self.name, {**self.details, "first_example": self.earlier.first_example})

    def _finish(self, error: BaseException | None) -> None:
        """Commit. An error on its way out stays the one that is raised."""
        try:
            self._writer.end(error)
        finally:
            self._is_left = True
            self._peers.leave()

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
        return self._writer.commit()

    def seal(self) -> int:
        """Commit, and say that the run is complete: nobody adds rows to it any more.

        Under `torch.distributed` every process calls it, and rank 0 seals when all have committed;
        where ranks were given, the process that is the last to end. Returns the version.

        Raises:
            CaptureError: nothing of the run is committed; it is not called in the block.
            CommitConflictError: somebody has removed the run meanwhile.
            StorageError: the store failed.

        Cost: a commit, a read of the log, one record.
        """
        if self._recorder is None or self._is_left:
            raise CaptureError(
                f"A capture seals its run in the with block. Behind it: lazycache.care.removing."
                f"seal({self.url!r}, {self.name!r}), or `lazycache seal` in a shell."
            )
        self.commit()
        runs = self._peers.gather(self.name)  # behind it all have committed
        version = self._peers.first(lambda: self._seal(runs))
        self._writer.seal()
        return version

    def _seal(self, runs: Iterable[str]) -> int:
        store, rank = self._place.store, self.ranks.rank
        return max(seal_run(store, run, rank=rank) for run in sorted(set(runs)))

    @property
    def ranks(self) -> Ranks:
        """Which of the processes that write the run this one is."""
        return self._peers.ranks

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed, and seconds waited for the store."""
        return self._writer.progress


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
