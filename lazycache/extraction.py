"""A corpus through a model into a dataset: what `lc.extract` does, and what it would cost."""

from __future__ import annotations

from collections.abc import Sized
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice

from torch import nn

from lazycache.capture.corpus.batching import CHECKSUM, Batch, Limits, pending, plan_batches
from lazycache.capture.corpus.corpus import Corpus
from lazycache.capture.corpus.estimate import Estimate
from lazycache.capture.corpus.extract import refuse_gradients, run_batches
from lazycache.capture.corpus.fingerprints import corpus_fingerprint
from lazycache.capture.corpus.pace import Pace
from lazycache.capture.corpus.rehearsal import Outlook, rehearse
from lazycache.capture.corpus.room import check_room
from lazycache.capture.corpus.sampling import take_sample
from lazycache.capture.corpus.work import Work
from lazycache.catalog.run_info import section, whole_number
from lazycache.errors import CaptureError
from lazycache.progress import progress_bar
from lazycache.reporting import reporter
from lazycache.session import Capture
from lazycache.types import RowBatch

_SAMPLE = 2000
"""Items of a corpus that a dry run looks at."""


class Extraction:
    """One corpus, one model, one capture that is not begun. Making it looks, and writes nothing.

    Args:
        model: What is run.
        run: What is captured, and where to.
        corpus: What it is run on.
        limits: How large a batch may be.

    Raises:
        CaptureError: a run that was captured differently, or from another corpus; says how.
    """

    def __init__(self, model: nn.Module, run: Capture, corpus: Corpus, limits: Limits) -> None:
        self._model = model
        self._run = run
        self._corpus = corpus
        self._limits = limits
        refuse_gradients(run.points)
        corpus.items(first=0)  # refuses what is no corpus; nothing is read yet
        run.describe(
            max_length=corpus.max_length,
            training=False,  # run_batches switches to evaluation
            corpus=corpus_fingerprint(corpus.data),
            batches=limits.described(),
        )
        run.check()
        self._check_corpus()

    def execute(self, *, show: bool, check_disk: bool) -> None:
        """Run the model over what is left, and store what is captured.

        Args:
            show: Show a bar where a person can see it.
            check_disk: Refuse to begin if the disk is certainly too small.

        Raises:
            CaptureError: an empty corpus, an example that differs from the one that is stored, a
                disk that is too small.
        """
        done = self._run.earlier.column(CHECKSUM)
        pace = Pace(self._total(), done=done, parts=self._run.ranks.world_size)
        items = pace.reading(self._corpus.items(first=self._run.earlier.first_example))
        left = pending(self._run.ranks.share(plan_batches(items, self._limits)), done=done)
        first: list[Batch] = []

        def look() -> bool:  # an empty corpus is refused before anything is written
            first.extend(islice(left, 1))
            return bool(first)

        if not self._run.agree(look):
            return
        counted_from = self._run.earlier.first_example
        if check_disk and self._run.keeps_all:
            self._run.check_first(lambda rows: self._check_disk(rows, pace))
        total = None if self._total() is None else self._total_left()
        with ExitStack() as stack:
            stack.enter_context(self._run)
            self._check_ids(counted_from)
            bar = stack.enter_context(
                progress_bar(
                    "capture", total=total, unit=" examples", show=show and not self._run.ranks.rank
                )
            )
            run_batches(
                self._model,
                chain(first, left),
                points=list(self._run.points.values()),
                annotate=self._run.annotate,
                progress=reporter(bar, self._run, pace.seconds_left),
            )

    def estimate(self) -> Estimate:
        """Judge what is left from a few batches; nothing is written.

        Cost: reads up to 2,000 items of the corpus and runs the model on up to six batches, for ten
        seconds and one batch at most, after one to warm up.
        """
        sample = take_sample(self._corpus.data, most=_SAMPLE)
        corpus = replace(self._corpus, data=sample.items)
        done = self._run.earlier.column(CHECKSUM) if sample.is_whole else {}
        items = list(corpus.items(first=self._run.earlier.first_example))
        batches = list(pending(plan_batches(items, self._limits), done=done))
        work = sum((batch.work for batch in batches), Work())
        left = work
        if sample.total is not None and not sample.is_whole:
            left = work.grown(max(0, sample.total - len(self._run.earlier.committed)))
        return rehearse(
            self._model,
            batches,
            points=list(self._run.points.values()),
            recorder=self._run.rehearsal,
            left=left,
            outlook=Outlook(
                url=self._run.url,
                free_bytes=self._run.free_bytes(),
                is_whole=sample.is_whole,
                is_open=sample.total is None,
            ),
        )

    def _check_ids(self, counted_from: int) -> None:
        """Refuse to begin a run whose first id others have taken since the items were counted."""
        if self._run.earlier.first_example != counted_from:
            raise CaptureError(
                f"Others have added examples to {self._run.url} since this extract looked there. "
                "Nothing was written: begin it again."
            )

    def _total(self) -> int | None:
        data = self._corpus.data
        return len(data) if isinstance(data, Sized) else None

    def _total_left(self) -> int:
        left = max(0, (self._total() or 0) - len(self._run.earlier.committed))
        return round(left / self._run.ranks.world_size)  # about: batches are dealt, not examples

    def _check_corpus(self) -> None:
        """Refuse another corpus than the one that the run began with; a longer one is welcome."""
        known = section(self._run.earlier.info or {}, "corpus")
        now = self._run.details["corpus"]
        if None in (known.get("crc32"), now["crc32"]):
            return
        items = whole_number(known, "items", 0)
        begins = corpus_fingerprint(self._corpus.data, first=items)
        if begins["crc32"] == known["crc32"]:
            return
        self._find_difference()
        raise CaptureError(
            f"Run {self._run.name!r} of {self._run.url} was captured from another corpus: "
            f"{items:,} items ({known['crc32']}), where this one has {now['items']:,} "
            f"({now['crc32']}), and what differs is not captured yet. Continue it with the corpus "
            "it began with, extract another one to another url or run, or replace what is there "
            "with overwrite=True."
        )

    def _find_difference(self) -> None:
        """Name the first committed example that differs, if one does."""
        items = self._corpus.items(first=self._run.earlier.first_example)
        done = self._run.earlier.column(CHECKSUM)
        for _ in pending(plan_batches(items, self._limits), done=done):
            pass

    def _check_disk(self, rows: RowBatch, pace: Pace) -> None:
        """Refuse to begin what the disk has no room for, judged from the first batch."""
        left = pace.left()
        if left is not None:
            free = self._run.free_bytes()
            check_room(rows, left, is_exact=pace.is_whole, free=free, url=self._run.url)
