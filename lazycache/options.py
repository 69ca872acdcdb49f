"""The options of `lc.capture` and `lc.extract`: their names, their defaults, which go together."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from lazycache.capture.corpus.batching import Limits
from lazycache.capture.inputs.where import Where
from lazycache.capture.values.layouts import Layouts
from lazycache.capture.values.reduce import Pool, Transform
from lazycache.capture.values.select import Positions
from lazycache.errors import CaptureError
from lazycache.peers import ALONE
from lazycache.storage.open_store import Url
from lazycache.writer.ranks import Ranks, ranks_of
from lazycache.writer.settings import Settings

RUN = "main"
"""Name of a run that is not named."""

QUEUE_BYTES = 1 << 30
SHARD_BYTES = 256 << 20
CHUNK_ROWS = 8192
COMMIT_BYTES = 4 << 30
COMMIT_SECONDS = 60.0

BATCH_SIZE, BATCH_TOKENS = 64, 8192
"""How large a batch is if nothing is said."""

WINDOW = 4096
"""Items of a corpus among which those of like length are gathered."""

Commit = Literal["own", "group"]
"""Who a log record is of: one process, or all of a job together."""

_NOT_WHEN_ADDING = ("where", "heads", "units", "columns", "overwrite")


class CaptureOptions(TypedDict, total=False):
    """Options of `lc.capture` that `lc.extract` hands on; the same names, the same defaults."""

    dtype: torch.dtype | str | None
    positions: Positions
    pool: Pool | None
    transform: Mapping[str, Transform] | None
    where: Where | None
    heads: Mapping[str, Iterable[int]] | None
    units: Mapping[str, Iterable[int]] | None
    columns: Mapping[str, Any] | None
    run: str
    overwrite: bool
    queue_bytes: int
    shard_bytes: int
    chunk_rows: int
    commit_bytes: int
    commit_seconds: float
    statistics: bool
    layout: Layouts
    rank: int | None
    world_size: int | None
    commit: Commit
    storage_options: Mapping[str, Any] | None


class ExtractOptions(CaptureOptions, total=False):
    """Options of `lc.extract`."""

    add_to: Url | None
    tokenizer: Any
    batch_size: int | None
    batch_tokens: int | None
    max_length: int | None
    keep: Collection[str] | None
    resume: bool
    check_disk: bool
    progress: bool


def settings_of(options: CaptureOptions, ranks: Ranks = ALONE) -> Settings:
    """Return the sizes that a writer goes by.

    Raises:
        CaptureError: one that is not positive.

    Example:
        >>> settings_of({"queue_bytes": 5}).queue_bytes
        5
    """
    return Settings(
        queue_bytes=options.get("queue_bytes", QUEUE_BYTES),
        shard_bytes=options.get("shard_bytes", SHARD_BYTES),
        chunk_rows=options.get("chunk_rows", CHUNK_ROWS),
        commit_bytes=options.get("commit_bytes", COMMIT_BYTES),
        commit_seconds=options.get("commit_seconds", COMMIT_SECONDS),
        rank=ranks.rank,
        statistics=options.get("statistics", True),
        session=ranks.session(),
    )


def ranks_in(options: CaptureOptions) -> Ranks:
    """Return which of several processes this one is: as said, else as `torch.distributed` has it.

    Raises:
        CaptureError: numbers that cannot be.

    Example:
        >>> ranks_in({"rank": 1, "world_size": 2}).rank
        1
    """
    return ranks_of(options.get("rank"), options.get("world_size"))


def limits_of(
    batch_size: int | None, batch_tokens: int | None, known: Mapping[str, Any] | None = None
) -> Limits:
    """Return how large batches are: as said, else as a run had them, else as usual.

    Raises:
        CaptureError: a size that is no whole number, or below 1.

    Example:
        >>> limits_of(None, 100, {"batch_size": 8, "batch_tokens": 50})
        Limits(examples=8, tokens=100, window=4096)
    """
    before = {"batch_size": BATCH_SIZE, "batch_tokens": BATCH_TOKENS, "window": WINDOW}
    before |= known or {}
    return Limits(
        examples=before["batch_size"] if batch_size is None else batch_size,
        tokens=before["batch_tokens"] if batch_tokens is None else batch_tokens,
        window=before["window"],
    )


def one_place(url: Url | None, add_to: Url | None, data: object) -> Url:
    """Return where an extract writes to.

    Raises:
        CaptureError: nowhere, two places, or no corpus for a new dataset.

    Example:
        >>> one_place(None, "acts", None), one_place("acts", "./acts", None)
        ('acts', './acts')
    """
    if add_to is None:
        if url is None:
            raise CaptureError("Say where to: lc.extract(model, data, url, sites), or add_to=url.")
        if data is None:
            raise CaptureError("There is no corpus: data=None is for add_to=url.")
        return url
    if url is not None and _plain(url) != _plain(add_to):
        raise CaptureError(
            f"url is {str(url)!r} and add_to {str(add_to)!r}: sites are added where the rows are. "
            "Leave url out."
        )
    return add_to


def _plain(url: Url) -> str:
    text = os.fspath(url)
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().absolute())


def check_addition(options: CaptureOptions, *, keep: Collection[str] | None, resume: bool) -> None:
    """Refuse options that say what rows there are: with `add_to` they are there already.

    Raises:
        CaptureError: names the option.

    Example:
        >>> check_addition({"dtype": "float16"}, keep=None, resume=True)
    """
    said = [name for name, value in options.items() if name in _NOT_WHEN_ADDING and value]
    said += ["commit='group'"] * (options.get("commit") == "group")
    said += ["keep"] * (keep is not None) + ["resume=False"] * (not resume)
    if said:
        raise CaptureError(
            f"{said[0]} does not go with add_to, which adds whole sites to the rows that are there."
        )
