"""Sites that are added to the rows of a dataset later: what `lc.extract(..., add_to=url)` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from torch import nn

from lazycache.added_sites import AddedSites, Wanted
from lazycache.addition_writer import AdditionWriter
from lazycache.capture.corpus.batching import CHECKSUM, Batch, plan_batches, without
from lazycache.capture.corpus.corpus import Corpus, longest_input
from lazycache.capture.corpus.estimate import Estimate
from lazycache.capture.corpus.extract import Progress, refuse_gradients, run_batches
from lazycache.capture.corpus.items import Item
from lazycache.capture.corpus.rehearsal import Outlook, rehearse
from lazycache.capture.corpus.room import FirstBatch, check_room
from lazycache.capture.corpus.same_run import run_of, stored_examples
from lazycache.capture.corpus.stored_corpus import StoredCorpus
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.capture.recorder import Recorder
from lazycache.capture.values.layouts import Layouts, make_layouts
from lazycache.catalog.run_info import section, whole_number
from lazycache.catalog.snapshot import Snapshot
from lazycache.catalog.stored_examples import Tokens
from lazycache.catalog.table_columns import column_by_example
from lazycache.errors import CaptureError
from lazycache.options import limits_of
from lazycache.peers import ALONE, Peers
from lazycache.progress import Bar, progress_bar
from lazycache.reporting import reporter
from lazycache.session import Nowhere
from lazycache.storage.free_space import free_bytes
from lazycache.storage.store import Store
from lazycache.types import RowBatch, Sink
from lazycache.writer.cover import CoverSink
from lazycache.writer.ranks import Ranks
from lazycache.writer.settings import Settings
from lazycache.writer.writer import WriterProgress

_SAMPLE = 40
"""Batches among which a dry run chooses those that it runs."""


class Addition:
    """Sites that a run lacks, and the model that gives them. Making it looks, and writes nothing.

    Args:
        model: The model that the run was captured from.
        store: Where the dataset is.
        snapshot: What it holds.
        wanted: What is added.
        run: Name of the run whose rows get values.
        corpus: What the run was captured from; None takes the tokens that are stored.
        batches: Examples in a batch and tokens in it, at most; None: as the run had it.
        given: What the caller said of the rows; it must be what the run says.
        settings: How the writer works.
        ranks: Which of the processes that share the work this one is.
        layout: How rows lie in the files; see `lc.capture`.

    Raises:
        CaptureError: no such run, another model or selection, a site that is there already, tokens
            that are stored in part only, and no corpus.
    """

    def __init__(
        self,
        model: nn.Module,
        store: Store,
        snapshot: Snapshot,
        wanted: Wanted,
        *,
        run: str,
        corpus: Corpus | None,
        batches: tuple[int | None, int | None],
        given: Mapping[str, Any],
        settings: Settings,
        ranks: Ranks = ALONE,
        layout: Layouts = None,
    ) -> None:
        self._model = model
        self._store = store
        self._snapshot = snapshot
        self._peers = Peers(ranks, commit="own", overwrite=False)
        self._run = run_of(snapshot, run, url=store.url)
        self._limits = limits_of(*batches, section(self._run.info, "batches"))
        self._given = None if corpus is None else self._as_captured(corpus)
        self._added = AddedSites(model, wanted)
        self._points = self._added.points
        self._settings = replace(settings, tiles=make_layouts(self._points, layout))
        refuse_gradients(self._points)
        note = self._added.describe(
            self._run,
            snapshot.runs,
            tokenizer=None if corpus is None else corpus.tokenizer,
            given=given,
        )
        self._stored = stored_examples(store, snapshot, run)
        self._corpus = StoredCorpus(
            self._stored,
            lengths=column_by_example(store, snapshot, run=run, column="length"),
            checksums=column_by_example(store, snapshot, run=run, column=CHECKSUM),
        )
        if corpus is None and not self._corpus.is_complete:
            raise CaptureError(
                f"Of the examples of run {run!r} not every token is stored (positions: "
                f"{self._run.info.get('positions')}), so the model cannot be run on them again. "
                "Give the corpus that they came from."
            )
        self._lacking = {name: ~self._stored.covered(name) for name in self._points}
        self._writer = AdditionWriter(
            store,
            snapshot,
            run=self._run,
            note=note,
            settings=self._settings,
            arrays=self._added.arrays,
        )
        self._recorder(Nowhere(), {})  # refuses arguments that do not fit, before anything runs

    def execute(self, *, show: bool, check_disk: bool) -> None:
        """Run the model over the stored examples that lack a value, and add the values.

        Args:
            show: Show a bar where a person can see it.
            check_disk: Refuse to begin if the disk is certainly too small.

        Raises:
            CaptureError: the corpus is not the one that is stored; the disk is too small.
        """
        pending = self._pending()
        try:
            if not self._peers.any(lambda: bool(pending.any())):
                return
            self._peers.check_one_place(self._snapshot.identity.uuid, url=self._store.url)
            self._run_over(pending, show=show and not self._peers.ranks.rank, check=check_disk)
            self._peers.each(lambda: None)  # then every process has what all have added
        finally:
            self._peers.leave()

    def _run_over(self, pending: np.ndarray, *, show: bool, check: bool) -> None:
        sink = self._sink()
        first = FirstBatch(sink, self._room_check(pending) if check else None)
        with ExitStack() as stack:
            stack.enter_context(self._corpus)
            self._match(show=show)
            stack.enter_context(self._writer.closing())
            recorder = stack.enter_context(self._recorder(first, sink.expected))
            count = round(int(pending.sum()) / self._peers.ranks.world_size)
            bar = stack.enter_context(progress_bar("add", total=count, unit=" examples", show=show))
            tokens = self._corpus.work(pending).tokens / self._peers.ranks.world_size
            run_batches(
                self._model,
                self._batches(pending, sink.expected),
                points=list(self._points.values()),
                annotate=self._added.annotate(recorder),
                progress=reporter(bar, self, lambda done: _seconds_left(done, tokens)),
            )

    def estimate(self) -> Estimate:
        """Judge what is added from a few batches; nothing is written."""
        pending = self._pending()
        expected: dict[int, Tokens] = {}
        with self._corpus:
            self._match(show=False)
            batches = list(islice(self._batches(pending, expected), _SAMPLE))
            return rehearse(
                self._model,
                batches,
                points=list(self._points.values()),
                recorder=lambda sink: self._recorder(sink, expected),
                annotate=self._added.annotate,
                left=self._corpus.work(pending),
                outlook=Outlook(
                    url=self._store.url,
                    free_bytes=self.free_bytes(),
                    is_whole=len(batches) < _SAMPLE,
                    is_open=False,
                ),
            )

    @property
    def progress(self) -> WriterProgress:
        """Rows and bytes taken over, queued and committed."""
        return self._writer.progress

    @property
    def queue_bytes(self) -> int:
        """Bytes that may wait to be written."""
        return self._settings.queue_bytes

    def free_bytes(self) -> int | None:
        """Bytes that are left on the disk; None of a bucket."""
        return free_bytes(self._store)

    def _as_captured(self, corpus: Corpus) -> Corpus:
        """Return the corpus, read as the run read it; its columns are stored."""
        length = self._run.info.get("max_length", longest_input(self._model, corpus.tokenizer))
        return replace(corpus, max_length=length, keep=())

    def _pending(self) -> np.ndarray:
        """Return bool[examples]: which of them lack one of the sites."""
        pending = np.zeros(len(self._stored), dtype=bool)
        for lacking in self._lacking.values():
            pending |= lacking
        return pending

    def _match(self, *, show: bool) -> None:
        """Compare the corpus, if one was given, with what is stored; before anything is run."""
        if self._given is None:
            return
        first = whole_number(self._run.info, "first_example", 0)
        with progress_bar("compare", total=len(self._stored), unit=" examples", show=show) as bar:
            self._corpus.match(_counted(self._given.items(first=first), bar))

    def _recorder(self, sink: Sink, expected: Mapping[int, Tokens]) -> Recorder:
        """Return a recorder of the stored rows."""
        return self._added.recorder(sink, expected=expected, keeps_all=self._corpus.is_complete)

    def _batches(self, pending: np.ndarray, expected: dict[int, Tokens]) -> Iterator[Batch]:
        """Give the batches that have something to add, as the run had them."""
        done = ExampleIds(self._stored.ids[~pending].tolist())
        ranks = self._peers.ranks
        planned = plan_batches(self._corpus.items(expected), self._limits, in_order=True)
        for number, batch in enumerate(planned):
            is_own = number % ranks.world_size == ranks.rank
            for example in batch.examples:
                if example in done or not is_own:
                    del expected[example]
            if is_own:
                yield from without(batch, done)

    def _sink(self) -> CoverSink:
        writer = self._writer
        return CoverSink(
            self._stored, cover=writer.cover, commit=writer.commit, lacking=self._lacking
        )

    def _room_check(self, pending: np.ndarray) -> Callable[[RowBatch], None]:
        """Return the check of the first batch against what is free."""

        def check(rows: RowBatch) -> None:
            check_room(
                rows,
                self._corpus.work(pending),
                is_exact=True,
                free=self.free_bytes(),
                url=self._store.url,
            )

        return check


def _counted(items: Iterable[Item], bar: Bar) -> Iterator[Item]:
    for item in items:
        yield item
        bar.advance(1)


def _seconds_left(done: Progress, tokens: float) -> float | None:
    return (tokens - done.tokens) * done.seconds / done.tokens if done.tokens else None
