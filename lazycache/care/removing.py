"""A run that goes, and a run that is complete: `remove_run` and `seal`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazycache.care.card import write_card
from lazycache.care.drafts import Dataset, draft
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import SelectionError, nearest
from lazycache.storage.open_store import Url, open_store
from lazycache.writer.sealing import seal_run

_ADDS_TO = "adds_to"


def remove_run(url: Url, run: str, *, storage_options: Mapping[str, Any] | None = None) -> int:
    """Remove a run with all of its rows; return the version that lacks it.

    Rows behind its own move up. What is open stays readable, and so does the version before
    (`lc.open(url, snapshot=...)`), until `gc` deletes the files. Sites that only this run had are
    gone, and what was added to it later. Its name may be used again.

    Args:
        url: Folder or URL of the dataset.
        run: Its name.
        storage_options: Handed to fsspec.

    Cost: reads the log, writes one commit; no file is touched.

    Raises:
        DatasetNotFoundError: there is no dataset.
        SelectionError: no such run, or it has no rows of its own.
        CommitConflictError: others changed the rows meanwhile. Nothing was changed.
        StorageError: the store failed.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> for name in ("first", "second"):
        ...     with lc.capture(model, url, "0", run=name, resume=True):
        ...         _ = model(torch.ones(4, 2))
        >>> remove_run(url, "first")
        3
        >>> lc.open(url)["0:out"].rows.shape
        torch.Size([4, 3])
    """
    dataset = Dataset.read(open_store(url, create=False, storage_options=storage_options))
    _check(dataset.snapshot, run, url=dataset.store.url, what="removed")
    return dataset.commit(draft(removed=(run,))).version


def seal(url: Url, run: str, *, storage_options: Mapping[str, Any] | None = None) -> int:
    """Say that a run is complete: nobody adds rows to it any more. Return the version that says so.

    Sites may still be added to its rows. Who still captures to it is refused at the next commit. A
    run that is sealed stays as it is, and nothing is written. Otherwise the card of the dataset is
    written anew, unless there is a `README.md` that is none.

    Args:
        url: Folder or URL of the dataset.
        run: Its name.
        storage_options: Handed to fsspec.

    Cost: reads the log, writes one commit and the card.

    Raises:
        DatasetNotFoundError: there is no dataset.
        SelectionError: no such run, or it has no rows of its own.
        CommitConflictError: somebody has just removed the run.
        StorageError: the store failed.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0"):
        ...     _ = model(torch.ones(4, 2))
        >>> seal(url, "main"), seal(url, "main")
        (2, 2)
    """
    dataset = Dataset.read(open_store(url, create=False, storage_options=storage_options))
    _check(dataset.snapshot, run, url=dataset.store.url, what="sealed")
    version = seal_run(dataset.store, run, rank=0, snapshot=dataset.snapshot)
    if run not in dataset.snapshot.sealed:
        dataset.refresh()
        write_card(dataset.store, dataset.snapshot)
    return version


def _check(snapshot: Snapshot, run: str, *, url: str, what: str) -> None:
    """Refuse a run that is not there, or that only describes what was added to another."""
    if run not in snapshot.runs:
        raise SelectionError(f"No run {run!r} in {url}. {nearest(run, snapshot.runs)}")
    owner = snapshot.runs[run].info.get(_ADDS_TO)
    if owner is not None:
        raise SelectionError(
            f"Run {run!r} of {url} only describes sites that were added to run {owner!r}: it has "
            f"no rows of its own that could be {what}. Give {owner!r}."
        )
