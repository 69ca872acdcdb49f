"""The front door: `open`, `capture`, `extract` and `sites` wire the stages and hold no logic."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from itertools import chain
from typing import Any, TypedDict, Unpack

import torch
from torch import nn

from lazycache.cache.activation_cache import ActivationCache
from lazycache.capture.convert import torch_dtype
from lazycache.capture.corpus import encode_items, longest_input
from lazycache.capture.extract import CHECKSUM, Progress, pending, plan_batches, run_batches
from lazycache.capture.resolve import SiteInfo, available
from lazycache.capture.select import Positions
from lazycache.catalog.identity import read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import SelectionError
from lazycache.progress import Bar, progress_bar
from lazycache.query.sql import connect
from lazycache.session import Capture
from lazycache.storage.open_store import open_store
from lazycache.types import IoCounters
from lazycache.writer.settings import Settings

Url = str | os.PathLike[str]
"""A folder of this machine, or a URL that fsspec knows."""

RUN = "main"
"""Name of a run that is not named."""

WINDOW = 64
"""Batches of a corpus among which examples of like length are gathered."""


def open(  # noqa: A001  # lc.open reads as what it does; the builtin is not used here
    url: Url,
    *,
    snapshot: int | None = None,
    check: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> ActivationCache:
    """Open a dataset to read it.

    Args:
        url: Its folder or URL.
        snapshot: Version to read; None is the newest.
        check: Compare the checksum of every chunk when it is first touched (about 2 GB/s, once).
        storage_options: Handed to fsspec.

    Returns:
        The cache: a mapping of site name to lazy tensor.

    Raises:
        DatasetNotFoundError: there is no dataset; says what is there instead.
        FormatVersionError: a newer lazycache wrote it.
        CorruptShardError: the log is damaged.
        SelectionError: no such snapshot.

    Cost: reads the log, one small file per commit; no activation and no table.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0"):
        ...     _ = model(torch.ones(4, 2))
        >>> list(lc.open(url))
        ['0:out']
    """
    store = open_store(url, create=False, storage_options=storage_options)
    identity = read_identity(store)
    commits = CommitLog(store).read()
    if snapshot is not None and not 0 <= snapshot <= len(commits):
        raise SelectionError(
            f"{store.url} has no snapshot {snapshot}: its versions are 0 to {len(commits)}."
        )
    replayed = Snapshot.replay(identity, commits[:snapshot])
    return ActivationCache(store, replayed, io=IoCounters(), check=check, connect=connect)


def sites(model: nn.Module) -> list[SiteInfo]:
    """List what can be captured from a model by name: modules, shapes, bytes per token.

    Raises nothing; runs nothing. A model of a family that is not known lists its modules.

    Example:
        >>> import lazycache as lc
        >>> [site.name for site in lc.sites(torch.nn.Sequential(torch.nn.Linear(2, 3)))]
        ['0:out']
    """
    return available(model)


def capture(
    model: nn.Module,
    url: Url,
    sites: str | Iterable[str],
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | str | None = None,
    positions: Positions = "all",
    columns: Mapping[str, Any] | None = None,
    run: str = RUN,
    resume: bool = False,
    overwrite: bool = False,
    queue_bytes: int = 1 << 30,
    shard_bytes: int = 256 << 20,
    chunk_rows: int = 8192,
    commit_bytes: int = 4 << 30,
    commit_seconds: float = 60.0,
    storage_options: Mapping[str, Any] | None = None,
) -> Capture:
    """Store the activations of every forward pass inside a `with` block.

    What a hook sees is copied at once (kept rows only, padding never), so later in-place operations
    cannot change it. Threads encode and write while the model goes on; if they are slower, the
    model waits. Leaving the block commits; an error commits the whole forward passes before it and
    is raised again; hooks are always removed.

    Args:
        model: Any module; inside the block call it as a whole: `model(...)`.
        url: Folder or URL of the dataset.
        sites: Names or patterns: `resid_out_*`, `mlp_act_[4-7]`, `re:...`, or module paths. See
            `lc.sites(model)`.
        tokenizer: Adds each token's text to the table `tokens`.
        dtype: Cast of floating-point values, on the device; None keeps every bit. What overflows is
            counted and reported in a warning.
        positions: `all`, `first`, `last`, `last-k`, an int, slice or list of positions, or a
            callable of (input_ids, mask) that gives a mask.
        columns: Columns that every example gets with the same value.
        run: Name of the run. Example ids are unique within one.
        resume: Add to the dataset if there is one; a run that is continued must be captured as
            before.
        overwrite: Remove the dataset that is there.
        queue_bytes: Bytes that may wait to be written. Memory needed is this and one forward pass.
        shard_bytes: Bytes after which a file ends.
        chunk_rows: Most rows in a chunk, the unit of a checksum and of a map.
        commit_bytes: Bytes after which a commit begins by itself.
        commit_seconds: Age of the oldest uncommitted row at which a commit begins by itself. A
            crash loses that much, and what waits in the queue.
        storage_options: Handed to fsspec.

    Raises:
        SiteNotFoundError: a pattern that means nothing in this model; names the nearest.
        DatasetExistsError: there is a dataset, and neither `resume` nor `overwrite`.
        CaptureError: the model, a batch or an argument does not fit.
        UnsupportedDtypeError: values that cannot be stored bit for bit.
        StorageError: the store failed. What was committed stays.

    Example:
        >>> import tempfile, lazycache as lc
        >>> model, url = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "*") as run:
        ...     run.annotate(label=["a", "b"])
        ...     _ = model(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        >>> tuple(lc.open(url)["1:out"].shape)
        (2, 3, 3)
    """
    return Capture(
        model,
        lambda create: open_store(url, create=create, storage_options=storage_options),
        sites,
        name=run,
        resume=resume,
        overwrite=overwrite,
        tokenizer=tokenizer,
        positions=positions,
        dtype=torch_dtype(dtype),
        columns=columns,
        settings=Settings(
            queue_bytes=queue_bytes,
            shard_bytes=shard_bytes,
            chunk_rows=chunk_rows,
            commit_bytes=commit_bytes,
            commit_seconds=commit_seconds,
            rank=0,
        ),
    )


class CaptureOptions(TypedDict, total=False):
    """Options of `lc.capture` that `lc.extract` hands on; the same names, the same defaults."""

    dtype: torch.dtype | str | None
    positions: Positions
    columns: Mapping[str, Any] | None
    run: str
    overwrite: bool
    queue_bytes: int
    shard_bytes: int
    chunk_rows: int
    commit_bytes: int
    commit_seconds: float
    storage_options: Mapping[str, Any] | None


def extract(
    model: nn.Module,
    data: Iterable[Any],
    url: Url,
    sites: str | Iterable[str],
    *,
    tokenizer: Any = None,
    batch_size: int = 32,
    max_length: int | None = None,
    keep: Collection[str] | None = None,
    resume: bool = True,
    progress: bool = True,
    **options: Unpack[CaptureOptions],
) -> ActivationCache:
    """Run a model over a corpus and store its activations.

    Batches hold examples of like length, longest first; the model runs in evaluation mode without
    gradients. Run again with the same arguments it skips the examples that are committed, after a
    look whether their tokens are the same.

    Args:
        model: Takes `input_ids` and `attention_mask`.
        data: Texts, lists of token ids, or dicts with `text` or `input_ids`, perhaps an `example`
            id, and columns of your own; a `datasets.Dataset` is one. Read once, in order.
        url: Folder or URL of the dataset.
        sites: Names or patterns, as for `lc.capture`.
        tokenizer: Needed for texts.
        batch_size: Examples per forward pass.
        max_length: Longer examples lose their end; None: what model and tokenizer can take.
        keep: Names of the columns of `data` to keep; None keeps all.
        resume: Add to the dataset if there is one; False refuses if there is.
        progress: Show a bar where a person can see it.
        **options: Of `lc.capture`.

    Returns:
        The dataset, opened.

    Raises:
        CaptureError: an empty corpus, an example without tokens, a run captured differently.
        Others as `lc.capture`.

    Example:
        >>> import tempfile, lazycache as lc
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> cache = lc.extract(model, [[1, 2, 3], [4, 5, 6]], tempfile.mkdtemp(), "0")
        >>> tuple(cache["0:out"].shape)
        (2, 3, 4)
    """
    if max_length is None:
        max_length = longest_input(model, tokenizer)
    storage = options.get("storage_options")
    run = capture(model, url, sites, tokenizer=tokenizer, resume=resume, **options)
    run.describe(max_length=max_length, training=False)  # run_batches switches to evaluation
    run.check()
    items = encode_items(
        data, tokenizer=tokenizer, max_length=max_length, keep=keep, first=run.first_example
    )
    batches = plan_batches(items, batch_size=batch_size, window=batch_size * WINDOW)
    left = pending(batches, done=run.stored(CHECKSUM))
    first = next(left, None)  # an empty corpus is refused before anything is written
    if first is None:
        return open(url, storage_options=storage)
    total = len(data) - len(run.committed) if isinstance(data, Sized) else None
    with run, progress_bar("capture", total=total, unit=" examples", show=progress) as bar:
        run_batches(
            model,
            chain([first], left),
            points=run.points,
            annotate=run.annotate,
            progress=_report(run, bar),
        )
    return open(url, storage_options=storage)


def _report(run: Capture, bar: Bar) -> Callable[[Progress], None]:
    """Tell a bar what was done since it was told last."""
    told = 0

    def report(done: Progress) -> None:
        nonlocal told
        rate = run.progress.bytes / max(done.seconds, 1e-9)
        bar.note(f"{done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s, {rate / 1e6:,.0f} MB/s")
        bar.advance(done.examples - told)
        told = done.examples

    return report
