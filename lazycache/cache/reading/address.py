"""Where the sites of a dataset are, so that another process can open them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lazycache.cache.reading.front_door import FRONT_DOOR

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites


@dataclass(frozen=True, slots=True)
class Address:
    """What is pickled of stored sites: no values. Calling it opens them, once in a process.

    The storage options go along, and with them what they say of keys and passwords: a pickle of an
    address is as secret as they are.
    """

    url: str = field(repr=False)
    """Folder or URL as it was given, perhaps with a password; of a folder the absolute path."""
    uuid: str
    """Name of the dataset, wherever it is: another one at this address is refused."""
    version: int
    """Version of the snapshot."""
    check: bool = False
    """Whether checksums are compared."""
    budget_bytes: int = 0
    """What an implicit load may take."""
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)
    """Handed to fsspec."""
    where: tuple[Any, ...] = ()
    """What they were restricted to, step by step, as `StoredSites.where` takes it."""

    @property
    def key(self) -> str:
        """The address as one text."""
        return repr((self.url, self, self.storage_options))

    def __call__(self) -> StoredSites:
        """Open it; the same address gives the same sites as long as somebody keeps them.

        Raises:
            DatasetNotFoundError: there is no dataset here: it is of another machine or process.
            StorageError: there is another dataset, or not this version of it.
        """
        sites: StoredSites = FRONT_DOOR.reopen(self)
        return sites


@dataclass(frozen=True, slots=True)
class EntriesAddress:
    """The values beside the sites of an address. Calling it opens them."""

    sites: Address
    """The address."""

    def __call__(self) -> Any:
        """Return the values; raises as `Address`."""
        return self.sites().entries
