"""What a cache has, parted into what is stored in datasets and what is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lazycache.cache.dataset.stored_sites import StoredSites


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """What is saved of a cache."""

    datasets: Sequence[StoredSites]
    """The datasets behind it."""
    values: Mapping[str, Any]
    """What is stored as values, by key: what is in memory, and what was stored beside sites."""
    sites: Sequence[tuple[StoredSites, Mapping[str, Any]]]
    """Whose rows are saved, in order, and what is shown of each: site to lazy tensor."""
