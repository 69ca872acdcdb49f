"""Run a model over a few batches for what they tell: nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from lazycache.capture.corpus.batching import Batch
from lazycache.capture.corpus.estimate import Estimate, index_bytes
from lazycache.capture.corpus.extract import Annotate, run_batches
from lazycache.capture.corpus.measure import Measure
from lazycache.capture.corpus.sampling import spread
from lazycache.capture.corpus.work import Work
from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.names import HookPoint
from lazycache.types import Sink

_MEASURED = 6
"""Batches that the model is run on, after one to warm up."""

_PATIENCE_S = 10.0
"""Seconds after which no further batch is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Where the dataset would be, and how well the corpus is known."""

    url: str
    """Where."""
    free_bytes: int | None
    """What is left there."""
    is_whole: bool
    """Whether the whole corpus was looked at."""
    is_open: bool
    """Whether nobody knows how long the corpus is."""


def rehearse(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    points: Sequence[HookPoint],
    recorder: Callable[[Sink], Recorder],
    annotate: Callable[[Recorder], Annotate] = lambda recorder: recorder.annotate,
    left: Work,
    outlook: Outlook,
) -> Estimate:
    """Run the model on some of the batches and say what all of the work will take.

    Args:
        model: What is run.
        batches: Of the corpus, or of a sample; those that are run are spread over them.
        points: What is captured.
        recorder: Makes a recorder that fills a sink.
        annotate: Gives what says whose rows come next.
        left: What is to be done.
        outlook: Where the dataset would be.
    """
    measure, ran = Measure(), Ran()
    if batches:
        # the first pass pays for what is made once
        for chosen, sink, seen in (
            (batches[:1], Measure(), Ran()),
            (spread(batches, _MEASURED), measure, ran),
        ):
            with recorder(sink) as recording:
                seen.run(model, chosen, points, annotate(recording))
    sites = measure.sites(left, ran=ran.work)
    growth = left.tokens / ran.work.tokens if ran.work.tokens else 0.0
    return Estimate(
        url=outlook.url,
        examples=round(left.examples),
        tokens=round(left.tokens),
        tables=measure.tables(left, ran=ran.work),
        sites=sites,
        table_bytes=measure.table_bytes(left, ran=ran.work),
        index_bytes=index_bytes(sites),
        seconds=ran.seconds * growth,
        free_bytes=outlook.free_bytes,
        batches=ran.batches,
        is_whole=outlook.is_whole,
        is_open=outlook.is_open,
    )


@dataclass(slots=True)
class Ran:
    """What was run."""

    work: Work = field(default_factory=Work)
    """What it asked of the model."""
    batches: int = 0
    """How many batches."""
    seconds: float = 0.0
    """How long it took."""

    def run(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        points: Sequence[HookPoint],
        annotate: Annotate,
    ) -> None:
        """Run the model on batches until it takes too long."""
        started = time.monotonic()

        def in_time() -> Iterator[Batch]:
            for batch in batches:
                if self.batches and time.monotonic() - started > _PATIENCE_S:
                    return
                yield batch
                self.work += batch.work
                self.batches += 1

        run_batches(model, in_time(), points=points, annotate=annotate, progress=lambda _: None)
        self.seconds = time.monotonic() - started
