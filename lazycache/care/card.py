"""The card of a dataset: its `README.md`, which says what it is and how anything reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lazycache.care.card_text import card_text
from lazycache.catalog.identity import has_card, read_identity
from lazycache.catalog.log import CommitLog
from lazycache.catalog.snapshot import Snapshot
from lazycache.errors import DatasetExistsError
from lazycache.storage.layout import CARD
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import Store


def card(url: Url, *, write: bool = False, storage_options: Mapping[str, Any] | None = None) -> str:
    """Describe a dataset in Markdown: sites, shapes, rows, bytes, runs, and how to read it.

    What it says of reading works without lazycache: a macro of DuckDB and a function for Polars and
    pandas decode values of this dataset.

    Args:
        url: Folder or URL of the dataset.
        write: Write it to the dataset as `README.md`, in place of an older card.
        storage_options: Handed to fsspec.

    Returns:
        The text.

    Raises:
        DatasetNotFoundError: there is no dataset.
        DatasetExistsError: the dataset has a `README.md` that is no card; it is left alone.
        CorruptShardError: the log is damaged.
        StorageError: the store failed.

    Cost: reads the log. No table, no activation.

    Example:
        >>> from lazycache.samples import small_cache
        >>> "resid_out_0" in card(small_cache().url)
        True
    """
    store = open_store(url, create=False, storage_options=storage_options)
    snapshot = Snapshot.replay(read_identity(store), CommitLog(store).read())
    if write and not write_card(store, snapshot):
        raise DatasetExistsError(
            f"{store.url} has a {CARD} that lazycache did not write; it is left as it is. Rename "
            "it, or print the card: lazycache card URL."
        )
    return card_text(snapshot)


def write_card(store: Store, snapshot: Snapshot) -> bool:
    """Write the card of a snapshot, unless there is a file of that name that is none.

    Returns:
        Whether it was written.

    Raises:
        StorageError: the store failed.

    Cost: a look at the one that is there, and one small write.
    """
    if store.exists(CARD) and not has_card(store):
        return False
    store.put(CARD, card_text(snapshot).encode())
    return True
