"""What a cache refers to in a dataset, under one key: a site, or a value beside the sites."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.cache.values.joining import Unread
from lazycache.cache.values.moving import moved_tensor


@dataclass(frozen=True, slots=True, eq=False)
class StoredSite(Unread):
    """A site of a dataset, not looked up yet."""

    sites: StoredSites
    """The dataset."""
    name: str
    """Its site."""
    dtype: torch.dtype | None = None
    """What floating-point values are converted to when they are loaded."""
    device: torch.device | None = None
    """Where they are loaded to."""

    def tensor(self, name: str | None = None) -> LazyTensor | RaggedTensor:
        """Return the site, or one that is part of it, as a lazy tensor. Reads nothing."""
        x = self.sites.tensor(name or self.name)
        return x if not (self.dtype or self.device) else moved_tensor(x, self.dtype, self.device)

    def moved(self, dtype: torch.dtype | None, device: torch.device | None) -> StoredSite:
        """Return it to be loaded in another dtype or to another device."""
        return replace(self, dtype=dtype or self.dtype, device=device or self.device)


@dataclass(frozen=True, slots=True, eq=False)
class StoredEntry:
    """A value that a dataset keeps beside its sites, not read yet."""

    sites: StoredSites
    """The dataset."""
    name: str
    """Its name there."""

    def value(self) -> Any:
        """Read it; of a tensor nothing is read."""
        return self.sites.entries.value(self.name)


def stored_parts(sites: StoredSites) -> dict[str, StoredSite | StoredEntry]:
    """Return what a dataset has, by name: sites in natural order, then its other values.

    A value of the name of a site stands in the site's place.
    """
    parts: dict[str, StoredSite | StoredEntry] = {
        name: StoredSite(sites, name) for name in sites.sites
    }
    parts.update((name, StoredEntry(sites, name)) for name in sites.snapshot.entries)
    return parts


def read(part: Any) -> Any:
    """Return what a part stands for."""
    if isinstance(part, StoredSite):
        return part.tensor()
    return part.value() if isinstance(part, StoredEntry) else part
