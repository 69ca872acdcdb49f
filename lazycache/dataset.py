"""The front door: `capture`, `extract` and `sites` wire the stages and hold no logic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack

import torch
from torch import nn

from lazycache.added_sites import Wanted
from lazycache.addition import Addition
from lazycache.capture.corpus.corpus import Corpus, longest_input
from lazycache.capture.corpus.estimate import Estimate
from lazycache.capture.inputs.where import Where
from lazycache.capture.sites.site_info import SiteInfo, available
from lazycache.capture.values.convert import torch_dtype
from lazycache.capture.values.layouts import Layouts
from lazycache.capture.values.reduce import Pool, Transform
from lazycache.capture.values.select import Positions
from lazycache.catalog.loading import load_snapshot
from lazycache.catalog.snapshot import Snapshot
from lazycache.extraction import Extraction
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.options import (
    CHUNK_ROWS,
    COMMIT_BYTES,
    COMMIT_SECONDS,
    QUEUE_BYTES,
    RUN,
    SHARD_BYTES,
    CaptureOptions,
    Commit,
    ExtractOptions,
    check_addition,
    limits_of,
    one_place,
    ranks_in,
    settings_of,
)
from lazycache.session import Capture
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import Store
from lazycache.writer.ranks import ranks_of
from lazycache.writer.settings import Settings

if TYPE_CHECKING:
    from typing import overload
else:

    def overload(function):  # noqa: ANN001, ANN201  # typed above
        """Do nothing: `typing` keeps overloads beyond the end, and DuckDB then complains."""
        return function


def sites(model: nn.Module) -> list[SiteInfo]:
    """List what can be captured from a model by name: modules, shapes, bytes per token.

    A model of a family that is not known lists its modules.

    Cost: runs nothing.

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
    pool: Pool | None = None,
    transform: Mapping[str, Transform] | None = None,
    where: Where | None = None,
    heads: Mapping[str, Iterable[int]] | None = None,
    units: Mapping[str, Iterable[int]] | None = None,
    columns: Mapping[str, Any] | None = None,
    run: str = RUN,
    resume: bool = False,
    overwrite: bool = False,
    queue_bytes: int = QUEUE_BYTES,
    shard_bytes: int = SHARD_BYTES,
    chunk_rows: int = CHUNK_ROWS,
    commit_bytes: int = COMMIT_BYTES,
    commit_seconds: float = COMMIT_SECONDS,
    statistics: bool = True,
    layout: Layouts = None,
    rank: int | None = None,
    world_size: int | None = None,
    commit: Commit = "own",
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
        sites: Names or patterns: `resid_out_*`, `mlp_act_[4-7]`, `re:...`, or module paths;
            `!pattern_*` takes back what those before it found. See `lc.sites(model)`.
        tokenizer: Adds each token's text to the table `tokens`.
        dtype: Cast of floating-point values, on the device; None keeps every bit. What overflows is
            counted and reported in a warning.
        positions: `all`, `first`, `last`, `last-k`, an int, slice or list of positions, or a
            callable of (input_ids, mask) that gives a mask.
        pool: `mean`, `sum` or `max`: one row per example, of its kept rows. The site is then one of
            the table `examples`.
        transform: Site name or pattern to a function of the kept rows, [rows, ...], that gives as
            many rows; it runs on the device.
        where: Callable of the batch (the model's inputs by name, `example`, your columns) that
            gives True for examples to record: one bool, or one for each.
        heads: Site name or pattern to the heads that are kept of it.
        units: Site name or pattern to the units (the last dimension) that are kept of it.
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
        statistics: Store numbers of the values beside them (about 2 % more bytes), so that `mean`
            and its like of whole sites read no activation.
        layout: How rows lie in the files: `row`, or `tile:64` and its like, which keeps 64 units of
            many rows together. One for all sites, or site name or pattern to one. Tiles make few
            units of many rows cheap (of 768 units a twelfth of the bytes is read) and single rows
            dearer. The values are the same.
        rank: Number of this process among those that write the run at once; with `world_size`.
            None takes both from `torch.distributed`, if it is initialised: then every process
            captures, they begin and end together, and rank 0 alone makes or replaces the dataset.
            Process r of W counts examples r, r + W, ..., as a `DistributedSampler` deals them.
        world_size: How many processes there are.
        commit: `own`: each process commits by itself. `group`: `run.commit()`, called by every
            process of `torch.distributed`, and the end of the block make one log record for all; if
            one process fails, none of it is committed. No commit then begins by itself.
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
    ranks = ranks_of(rank, world_size)
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
        pool=pool,
        transform=transform,
        where=where,
        heads=heads,
        units=units,
        columns=columns,
        layout=layout,
        settings=Settings(
            queue_bytes=queue_bytes,
            shard_bytes=shard_bytes,
            chunk_rows=chunk_rows,
            commit_bytes=commit_bytes,
            commit_seconds=commit_seconds,
            rank=ranks.rank,
            statistics=statistics,
            session=ranks.session(),
        ),
        ranks=ranks,
        commit=commit,
    )


@overload
def extract(  # noqa: D103  # documented below
    model: nn.Module,
    data: Iterable[Any] | None,
    url: Url | None = None,
    sites: str | Iterable[str] = (),
    *,
    dry_run: Literal[False] = False,
    **options: Unpack[ExtractOptions],
) -> ActivationCache: ...


@overload
def extract(  # noqa: D103, F811  # the same
    model: nn.Module,
    data: Iterable[Any] | None,
    url: Url | None = None,
    sites: str | Iterable[str] = (),
    *,
    dry_run: Literal[True],
    **options: Unpack[ExtractOptions],
) -> Estimate: ...


def extract(  # noqa: F811  # the one that runs
    model: nn.Module,
    data: Iterable[Any] | None,
    url: Url | None = None,
    sites: str | Iterable[str] = (),
    *,
    add_to: Url | None = None,
    tokenizer: Any = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
    keep: Collection[str] | None = None,
    resume: bool = True,
    dry_run: bool = False,
    check_disk: bool = True,
    progress: bool = True,
    **options: Unpack[CaptureOptions],
) -> ActivationCache | Estimate:
    """Run a model over a corpus and store its activations.

    Batches hold examples of like length, longest first; the model runs in evaluation mode without
    gradients. Run again with the same arguments it skips the examples that are committed, after a
    look whether their tokens are the same: what is left runs in the batches that it would have run
    in, so the dataset is that of an uninterrupted run, bit for bit. Another model, tokenizer,
    selection or corpus is refused by what differs; a longer corpus adds the rest.

    Several processes share a corpus that each of them is given whole: its batches are dealt to them
    in turn (`rank`, `world_size`), so that another number of them can go on with what is left.

    With `add_to` the sites are added to the rows that a dataset has: the same examples and
    positions, compared with the stored tokens; nothing of the rest is captured or written again. It
    can be interrupted and run again too. In the batches of the first run, which are the default,
    the values are those that the first run would have stored, bit for bit. In others their last
    bits may differ; so they may where `where` left examples out of batches, and beside patterns,
    which switch the model to eager attention.

    Args:
        model: Takes `input_ids` and `attention_mask`, or `pixel_values`.
        data: Texts, lists of token ids, or dicts with `text`, `input_ids` (for an encoder-decoder
            model `decoder_input_ids` too) or `pixel_values`, perhaps an `example` id, and columns
            of your own; a `datasets.Dataset` is one. Read once, in order. None takes the tokens
            that are stored, with `add_to` where the run kept all positions.
        url: Folder or URL of the dataset; with `add_to` it may be left out.
        sites: Names or patterns, as for `lc.capture`.
        add_to: Folder or URL of a dataset to whose rows the sites are added.
        tokenizer: Needed for texts.
        batch_size: Examples per forward pass, at most. None: 64, or what the run had.
        batch_tokens: Examples times the longest of them, at most; one longer example goes alone.
            None: 8192, or what the run had.
        max_length: Longer examples lose their end; None: what model and tokenizer can take.
        keep: Names of the columns of `data` to keep; None keeps all.
        resume: Add to the dataset if there is one; False refuses if there is.
        dry_run: Write nothing: run a few batches and return an `Estimate` of rows, bytes and time.
        check_disk: Refuse to begin what the local disk has no room for.
        progress: Show a bar where a person can see it.
        **options: Of `lc.capture`.

    Returns:
        The dataset, opened; of a dry run, the estimate.

    Raises:
        CaptureError: an empty corpus, an example without tokens, a run captured differently, a disk
            that is too small; a site to be added that is there. Others as `lc.capture`.

    Example:
        >>> import tempfile, lazycache as lc
        >>> model, url = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3)), tempfile.mkdtemp()
        >>> cache = lc.extract(model, [[1, 2, 3], [4, 5, 6]], url, "0")
        >>> tuple(cache["0:out"].shape)
        (2, 3, 4)
        >>> tuple(lc.extract(model, None, add_to=url, sites="1")["1:out"].shape)
        (2, 3, 3)
        >>> lc.extract(model, [[1, 2, 3]] * 1000, "acts", "0", dry_run=True).sites[0].nbytes
        48000
    """
    place = one_place(url, add_to, data)
    work: Extraction | Addition
    if data is None or add_to is not None:
        check_addition(options, keep=keep, resume=resume)
        ranks = ranks_in(options)
        said = {"positions": options.get("positions"), "max_length": max_length}
        store = open_store(place, create=False, storage_options=options.get("storage_options"))
        wanted = Wanted(
            sites=sites,
            dtype=torch_dtype(options.get("dtype")),
            pool=options.get("pool"),
            transform=options.get("transform"),
        )
        work = Addition(
            model,
            store,
            _newest(store),
            wanted,
            run=options.get("run", RUN),
            corpus=None if data is None else Corpus(data=data, tokenizer=tokenizer),
            batches=(batch_size, batch_tokens),
            given={name: value for name, value in said.items() if value is not None},
            settings=settings_of(options, ranks),
            ranks=ranks,
            layout=options.get("layout"),
        )
    else:
        if max_length is None:
            max_length = longest_input(model, tokenizer)
        work = Extraction(
            model,
            capture(model, place, sites, tokenizer=tokenizer, resume=resume, **options),
            Corpus(data=data, tokenizer=tokenizer, max_length=max_length, keep=keep),
            limits_of(batch_size, batch_tokens),
        )
    if dry_run:
        return work.estimate()
    work.execute(show=progress, check_disk=check_disk)
    return open_dataset(place, storage_options=options.get("storage_options"))


def _newest(store: Store) -> Snapshot:
    """Return what a dataset holds now."""
    return load_snapshot(store)
