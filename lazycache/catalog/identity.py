"""`lazycache.json`: what makes a folder a dataset. Written once, never again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import islice

from lazycache.catalog import fields
from lazycache.catalog.records import FORMAT_VERSION
from lazycache.errors import (
    CorruptShardError,
    DatasetExistsError,
    DatasetNotFoundError,
    FormatVersionError,
    StorageError,
)
from lazycache.storage.failures import replaces_objects
from lazycache.storage.layout import CARD, CARD_MARK, FILE_PREFIXES, IDENTITY, LOG_PREFIX
from lazycache.storage.retrying import patiently
from lazycache.storage.store import Store
from lazycache.types import Identity

_NAME = "lazycache"

_SHOWN = 4  # names in a message
_BESIDE = 1000  # folders that are looked at for one that was meant


def create_dataset(store: Store) -> Identity:
    """Make an empty store a dataset; of several callers at once one succeeds.

    Costs a listing and two small writes: the second proves that the store decides who is first.

    Raises:
        DatasetExistsError: a dataset is there, or other files.
        StorageError: the store failed, or lets two writers create the same object.

    Example:
        >>> from lazycache.storage.open_store import open_store
        >>> store = open_store("memory://identity-doctest", create=True, storage_options=None)
        >>> identity = create_dataset(store)
        >>> read_identity(store) == identity
        True
        >>> store.delete("lazycache.json")
    """
    _check_empty(store)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    identity = Identity(version=FORMAT_VERSION, uuid=str(uuid.uuid4()), created=now)
    record = encode_identity(identity)
    # a False may be our own write that was retried after its answer got lost: so compare
    if not _put_or_found(store, record):
        raise DatasetExistsError(f"Another process has just made {store.url} a dataset: open it.")
    if patiently(lambda: store.put_if_absent(IDENTITY, record)):
        store.delete(IDENTITY)  # nobody shall take it for a dataset to write to
        raise replaces_objects(store.url)
    return identity


def check_decides(store: Store) -> None:
    """Refuse to write to a dataset of a store that lets two writers create the same object.

    To be asked before anything is written or removed: such a store could not make the dataset again
    that it held. Cost: two requests, which change nothing; none of a folder of this machine.

    Raises:
        StorageError: the store lets two writers create the same object, or failed.
        DatasetNotFoundError: another process removed the dataset meanwhile.

    Example:
        >>> from lazycache.storage.open_store import open_store
        >>> store = open_store("memory://decides-doctest", create=True, storage_options=None)
        >>> _ = create_dataset(store)
        >>> check_decides(store)
        >>> store.delete("lazycache.json")
    """
    if store.local_path(IDENTITY) is not None:
        return
    try:
        record = store.get(IDENTITY)
    except FileNotFoundError:  # removed meanwhile: there is nothing to lose
        return
    if not patiently(lambda: store.put_if_absent(IDENTITY, record)):
        return
    if patiently(lambda: store.put_if_absent(IDENTITY, record)):
        raise replaces_objects(store.url)
    store.delete(IDENTITY)  # it was not there any more: what we made is no dataset
    raise DatasetNotFoundError(
        f"Another process has just removed the dataset of {store.url}: nothing was written. "
        "Run again to make a new one."
    )


def _put_or_found(store: Store, record: bytes) -> bool:
    """Whether this identity is the one that is there now."""
    return patiently(lambda: store.put_if_absent(IDENTITY, record)) or store.get(IDENTITY) == record


def _check_empty(store: Store) -> None:
    if store.exists(IDENTITY):
        raise DatasetExistsError(
            f"{store.url} already holds a dataset: open it, or choose another address."
        )
    if names := foreign_files(store):
        raise DatasetExistsError(
            f"{store.url} holds other files ({names}): choose a new or empty folder."
        )


def refuse_foreign(store: Store) -> None:
    """Raise `DatasetExistsError` if a place that is no dataset holds files of somebody else."""
    if foreign := foreign_files(store):
        raise DatasetExistsError(
            f"{store.url} holds files that are no lazycache dataset ({foreign}): choose a new or "
            "empty folder."
        )


def foreign_files(store: Store) -> str:
    """Name a few of the files of a place that are of no dataset; empty if there are none.

    Hidden files and folders do not count: desktops and notebooks leave them everywhere. Nor does
    the card that lazycache writes.
    """
    ours = (LOG_PREFIX, *FILE_PREFIXES)
    found = (
        info.path
        for info in store.list("")
        if info.path != IDENTITY and not info.path.startswith((*ours, "."))
        if info.path != CARD or not has_card(store)
    )
    return _named(found)


def has_card(store: Store) -> bool:
    """Whether a place has a card that lazycache wrote. Reads its beginning."""
    try:
        return store.get_ranges(CARD, [(0, len(CARD_MARK))]) == [CARD_MARK]
    except (FileNotFoundError, StorageError):  # none, or a shorter one
        return False


def _contents(store: Store) -> str:
    """Say what a store holds instead of a dataset."""
    try:
        names = _named(info.path for info in store.list(""))
    except StorageError:  # web servers do not list; what was asked for is answered all the same
        return f"there is no {IDENTITY}"
    return f"it holds {names}" if names else f"nothing is there{_beside(store)}"


def _beside(store: Store) -> str:
    """Offer the datasets beside a folder whose names are like its own."""
    meant = store.local_path(IDENTITY)
    if meant is None:
        return ""
    meant = meant.absolute().parent
    there = [p.parent.name for p in islice(meant.parent.glob(f"*/{IDENTITY}"), _BESIDE)]
    close = get_close_matches(meant.name, there, n=_SHOWN, cutoff=0.5)
    return f". Nearest beside it: {', '.join(close)}" if close else ""


def _named(paths: Iterable[str]) -> str:
    some = list(islice(paths, _SHOWN + 1))
    return ", ".join(some[:_SHOWN]) + (", ..." if len(some) > _SHOWN else "")


def encode_identity(identity: Identity) -> bytes:
    """Return the bytes of `lazycache.json`."""
    entry = {
        "format": _NAME,
        "version": identity.version,
        "uuid": identity.uuid,
        "created": identity.created,
    }
    return json.dumps(entry, indent=1).encode() + b"\n"


def read_identity(store: Store) -> Identity:
    """Return what the store's `lazycache.json` says. Reads that one object.

    Raises:
        DatasetNotFoundError: there is none; says what is there instead.
        FormatVersionError: a newer lazycache wrote the dataset.
        CorruptShardError: it is not what lazycache writes.
    """
    try:
        record = store.get(IDENTITY)
    except FileNotFoundError as exc:
        raise DatasetNotFoundError(f"No dataset at {store.url}: {_contents(store)}.") from exc
    try:
        return _decode(record)
    except (ValueError, RecursionError, StorageError) as exc:
        if isinstance(exc, FormatVersionError):
            raise
        raise CorruptShardError(f"{IDENTITY} of {store.url} is damaged: {exc}") from exc


def _decode(record: bytes) -> Identity:
    entry = fields.mapping(json.loads(record))
    if entry.get("format") != _NAME:
        raise CorruptShardError(f"its format is {str(entry.get('format'))[:80]!r}, not {_NAME!r}")
    version = fields.integer(entry, "version")
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"The dataset has format {version}; this lazycache reads up to {FORMAT_VERSION}. "
            "Upgrade lazycache."
        )
    created = fields.text(entry, "created")
    return Identity(version=version, uuid=fields.name(entry, "uuid"), created=created)
