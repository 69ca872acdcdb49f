"""What one actor of Ray does: it runs a model over blocks of items, and commits each by itself.

Ray runs a block again when the actor that had it is gone, and cannot know whether it had committed.
So items carry their ids, an actor leaves out what is committed, and of two actors with one block
the log lets the first commit and refuses the second, which then looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from torch import nn

from lazycache.capture.corpus.batching import CHECKSUM, Batch, Limits, pending, plan_batches
from lazycache.capture.corpus.corpus import Corpus, longest_input
from lazycache.capture.corpus.extract import refuse_gradients, run_batches
from lazycache.dataset import capture
from lazycache.errors import CommitConflictError, LazycacheError
from lazycache.options import CaptureOptions
from lazycache.session import Capture
from lazycache.storage.open_store import Url

_INPUTS = ("text", "input_ids", "attention_mask", "decoder_input_ids", "pixel_values")

_ATTEMPTS = 3  # a block that others have committed in part is looked at again


@dataclass(frozen=True)
class Job:
    """What every actor is told."""

    model: nn.Module | Callable[[], nn.Module]
    """The model, or what makes it there."""
    url: Url
    """Where the dataset is, as every node sees it."""
    sites: tuple[str, ...]
    """Names or patterns."""
    limits: Limits
    """How large a batch is."""
    tokenizer: Any = None
    """For texts."""
    max_length: int | None = None
    """Longer examples lose their end."""
    options: CaptureOptions = field(default_factory=CaptureOptions)
    """Of `lc.capture`."""


class RayCapture:
    """An actor: made once where it runs, called with a block of items at a time.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = nn.Sequential(nn.Embedding(10, 4)), tempfile.mkdtemp()
        >>> limits = Limits(examples=8, tokens=None, window=8)
        >>> actor = RayCapture(Job(model, url, ("0",), limits))
        >>> block = pa.table({"example": [0, 1], "input_ids": [[1, 2], [3, 4]]})
        >>> actor(block).to_pydict(), actor(block).to_pydict()
        ({'examples': [2]}, {'examples': [0]})
        >>> actor.close()
        >>> lc.open(url)["0:out"].rows.shape
        torch.Size([4, 4])
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._model = job.model if isinstance(job.model, nn.Module) else job.model()
        self._length = job.max_length
        if self._length is None:
            self._length = longest_input(self._model, job.tokenizer)
        self._begin()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Store what is not stored of a block; return how many examples that were."""
        items = [_plain(row) for row in block.to_pylist()]
        for _ in range(_ATTEMPTS - 1):
            try:
                return pa.table({"examples": [self._store(items)]})
            except CommitConflictError:  # another actor has, or had, the same block
                self._drop()
                self._begin()
        return pa.table({"examples": [self._store(items)]})

    def close(self) -> None:
        """Take the hooks off and end the writer. Ray does not call it: every block is committed."""
        self._run.__exit__(None, None, None)

    def _begin(self) -> None:
        job = self._job
        run = capture(
            self._model,
            job.url,
            job.sites,
            tokenizer=job.tokenizer,
            resume=True,
            **job.options,
        )
        refuse_gradients(run.points)
        run.describe(max_length=self._length, training=False, batches=job.limits.described())
        self._run: Capture = run.__enter__()
        self._done: dict[int, int | None] = self._run.earlier.column(CHECKSUM)

    def _drop(self) -> None:
        """End a capture whose writer has failed."""
        with suppress(LazycacheError):  # the error that led here
            self._run.__exit__(None, None, None)

    def _store(self, items: list[dict[str, Any]]) -> int:
        corpus = Corpus(data=items, tokenizer=self._job.tokenizer, max_length=self._length)
        new: dict[int, int | None] = {}
        done = run_batches(
            self._model,
            self._left(corpus, new),
            points=list(self._run.points.values()),
            annotate=self._run.annotate,
            progress=lambda _: None,
        )
        self._run.commit()
        self._done |= new
        return done.examples

    def _left(self, corpus: Corpus, new: dict[int, int | None]) -> Iterator[Batch]:
        """Give the batches that are not committed, and note what they hold."""
        planned = plan_batches(corpus.items(first=0), self._job.limits)
        for batch in pending(planned, done=self._done):
            checksums = batch.columns[CHECKSUM]
            new.update(zip(batch.examples, checksums, strict=True))  # type: ignore[arg-type]
            yield batch


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the inputs that it lacks: a table has every column for every row."""
    return {name: value for name, value in row.items() if value is not None or name not in _INPUTS}
