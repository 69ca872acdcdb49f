"""What methods of the cache ask of the floors above it: functions that `lazycache` itself gives.

The cache reads; it may not know what writes, nor how an address is opened. `lazycache/__init__.py`,
which runs before any module of the package, fills these slots with functions that load the floors
above when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class FrontDoor:
    """The functions, by what they do."""

    save: Callable[..., None]
    """`saving.save`: write a cache to a new dataset."""
    persist: Callable[..., Any]
    """`saving.persist`: add values in memory to the dataset behind a cache."""
    reopen: Callable[..., Any]
    """`opening.reopen`: the sites at an address."""
    loader: Callable[..., Any]
    """`feed.loading.loader`: batches of rows for training."""


FRONT_DOOR = FrontDoor()
"""The one of this process."""
