"""Capture on the actors of a Ray cluster, and read a dataset as one of Ray. Extra `ray`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Unpack

import numpy as np
from torch import nn

from lazycache.capture.corpus.earlier import Earlier
from lazycache.catalog.target import find_target
from lazycache.dataset import capture
from lazycache.errors import CaptureError, SelectionError
from lazycache.integrations.ray_capture import Job, RayCapture
from lazycache.integrations.ray_reading import BLOCK_BYTES, Reading, pieces_of, read_piece
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.options import RUN, CaptureOptions, limits_of
from lazycache.progress import progress_bar
from lazycache.storage.open_store import Url, open_store

_NOT_HERE = ("rank", "world_size", "commit")


def extract(
    model: nn.Module | Callable[[], nn.Module],
    data: Any,
    url: Url,
    sites: str | Iterable[str],
    *,
    actors: int = 1,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    tokenizer: Any = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    block_items: int = 256,
    max_length: int | None = None,
    resume: bool = True,
    progress: bool = True,
    **options: Unpack[CaptureOptions],
) -> ActivationCache:
    """Run a model over a corpus on the actors of a Ray cluster, and store its activations.

    Each actor runs blocks of the corpus and commits each by itself; a block that Ray runs again,
    because its actor was lost, is stored once. Run again with the same arguments it skips what is
    committed. The rows are those of `lc.extract`; their order in storage, and the company in which
    an example runs, follow from the blocks.

    Args:
        model: The model, which is sent to the actors; or a function that makes it there, on the
            device of the actor: better for a large one.
        data: A `ray.data.Dataset` with columns as the items of `lc.extract` have them (`text` or
            `input_ids`, perhaps `example`), or any corpus of `lc.extract`, which is then read here.
        url: Folder or URL of the dataset, the same for every node.
        sites: Names or patterns, as for `lc.capture`.
        actors: How many.
        num_cpus: CPUs of each; None: one, as Ray decides.
        num_gpus: GPUs of each.
        tokenizer: Needed for texts; sent to the actors.
        batch_size: Examples per forward pass, at most.
        batch_tokens: Examples times the longest of them, at most.
        block_items: Items that are committed together.
        max_length: Longer examples lose their end.
        resume: Add to the dataset if there is one.
        progress: Show a bar where a person can see it.
        **options: Of `lc.capture`, `overwrite` too; processes are counted by Ray.

    Returns:
        The dataset, opened.

    Raises:
        CaptureError: Ray is not installed, or an argument does not fit here. What an actor raises
            comes as Ray's own error, with ours inside.
        DatasetExistsError: there is a dataset, and neither `resume` nor `overwrite`.

    Cost: a commit for each block. A dataset of Ray without `example` is counted once before.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4))
        >>> extract(model, [[1, 2], [3]], "acts", "0", actors=0)
        Traceback (most recent call last):
        ...
        lazycache.errors.CaptureError: actors=0: a whole number, at least 1.
    """
    _check(actors, block_items, options)
    _ray_data()  # before anything is looked at
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    if isinstance(model, nn.Module):  # what does not fit it is refused here, where nothing is gone
        capture(model, url, names, tokenizer=tokenizer, resume=resume, **options)
    limits = limits_of(batch_size, batch_tokens)
    store = open_store(url, create=False, storage_options=options.get("storage_options"))
    target = find_target(store, resume=resume, overwrite=options.get("overwrite", False))
    earlier = Earlier(store, target.snapshot, run=options.get("run", RUN))
    corpus, total = _numbered(data, first=earlier.first_example)
    # the actors come one by one, and look at what is there: it is made, or replaced, before
    target.prepare(open_store(url, create=True, storage_options=options.get("storage_options")))
    options.pop("overwrite", None)  # it is done
    job = Job(
        model=model,
        url=url,
        sites=names,
        limits=limits,
        tokenizer=tokenizer,
        max_length=max_length,
        options=options,
    )
    stored = corpus.map_batches(
        RayCapture,
        fn_constructor_args=(job,),
        batch_size=block_items,
        batch_format="pyarrow",
        concurrency=actors,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    with progress_bar("capture", total=total, unit=" examples", show=progress) as bar:
        for row in stored.iter_rows():
            bar.advance(int(row["examples"]))
    return open_dataset(url, storage_options=options.get("storage_options"))


def to_ray_dataset(
    url: Url,
    sites: str | Sequence[str],
    *,
    where: str | None = None,
    columns: Sequence[str] = (),
    block_bytes: int = BLOCK_BYTES,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Return rows of a dataset as a `ray.data.Dataset`, read by the tasks of the cluster.

    A row has the index of its table (`example`, `position`), the columns that were asked for, and
    each site as a tensor: bfloat16 as float32, which holds every value of it.

    Args:
        url: Folder or URL, the same for every node.
        sites: Names of one table that have values for the same rows.
        where: Condition in SQL on the rows, as of `lc.open`.
        columns: Further columns or expressions of the table and of `examples`.
        block_bytes: Bytes of activations in a block, about.
        storage_options: Handed to fsspec.

    Raises:
        CaptureError: Ray is not installed.
        SelectionError: sites of several tables, of other rows, or whose rows differ in width; no
            row at all.
        SiteNotFoundError: no such site.

    Cost: reads the log here, and in each task again, with what a condition asks; the shards in the
    tasks. What is committed later is not in it.

    Example:
        >>> to_ray_dataset("acts", [])
        Traceback (most recent call last):
        ...
        lazycache.errors.SelectionError: sites=[]: name at least one site.
    """
    names = (sites,) if isinstance(sites, str) else tuple(sites)
    if not names:
        raise SelectionError(f"sites={sites!r}: name at least one site.")
    data = _ray_data()
    with open_dataset(url, storage_options=storage_options) as cache:
        version = cache.snapshot.version
    reading = Reading(url, version, names, where, tuple(columns), storage_options)
    pieces = pieces_of(reading, block_bytes=block_bytes)
    spans = [{"start": start, "stop": stop} for start, stop in pieces]
    return data.from_items(spans, override_num_blocks=len(spans)).map_batches(
        read_piece, batch_size=1, batch_format="numpy", fn_kwargs={"reading": reading}
    )


def _check(actors: int, block_items: int, options: CaptureOptions) -> None:
    for name, value in (("actors", actors), ("block_items", block_items)):
        if type(value) is not int or value < 1:
            raise CaptureError(f"{name}={value!r}: a whole number, at least 1.")
    said = [name for name in _NOT_HERE if options.get(name) is not None]
    if said:
        raise CaptureError(
            f"{said[0]} does not go with Ray, whose actors each write by themselves."
        )


def _numbered(data: Any, *, first: int) -> tuple[Any, int | None]:
    """Return a corpus as a dataset of Ray whose items have ids, and how many there are."""
    ray_data = _ray_data()
    if not isinstance(data, ray_data.Dataset):
        items = [_item(entry, first + n) for n, entry in enumerate(data)]
        names = dict.fromkeys(name for item in items for name in item)
        full = [{name: item.get(name) for name in names} for item in items]
        if not full:
            raise CaptureError("The corpus is empty: there is nothing to run the model on.")
        return ray_data.from_items(full), len(full)
    if "example" in (data.columns() or ()):
        return data, None
    count = data.count()
    ids = ray_data.range(count).map_batches(
        lambda batch: {"example": batch["id"] + first}, batch_format="numpy"
    )
    return data.zip(ids), count


def _item(entry: Any, example: int) -> dict[str, Any]:
    if isinstance(entry, Mapping):
        return {"example": example, **entry}
    if isinstance(entry, str):
        return {"example": example, "text": entry}
    return {"example": example, "input_ids": np.asarray(entry).tolist()}


def _ray_data() -> Any:
    if find_spec("ray") is None:
        raise CaptureError("Ray is not installed. Run: pip install 'lazycache[ray]'.")
    import ray.data

    return ray.data
