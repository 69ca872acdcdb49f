"""Units of a site that go with one of them: worked out once, and kept as long as the dataset."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import TypeAlias
from weakref import WeakKeyDictionary

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.serve.asked import spelled
from lazycache.serve.leaving import LOOK_S, check_there
from lazycache.serve.units import Unit

NEAREST = 10
"""Neighbours that are shown."""

KEPT = 512
"""Units whose neighbours are kept."""

Neighbours: TypeAlias = "list[tuple[str, float]]"
"""Units, as addresses have them, and Pearson's r, the strongest first."""

_KEPT: WeakKeyDictionary[StoredSites, OrderedDict[tuple[str, str, bool], Neighbours]] = (
    WeakKeyDictionary()
)
_LOCK = threading.Lock()


def neighbours_of(unit: Unit, *, of: StoredSites, gone: Event) -> Neighbours:
    """Return the units of the same site whose values go with one of them over all rows.

    Args:
        unit: Which one.
        of: The dataset; what is found is kept as long as it is.
        gone: Set when nobody waits for them any more.

    Cost: reads the site once, in blocks; nothing when it was asked before.

    Raises:
        QueryError: the reader left before it was their turn.
    """
    key = (unit.site, unit.spelled, unit.asked.later)
    # under the lock: who asks for the same at once waits for it, and the others do not crowd
    with _turn(gone):
        kept = _KEPT.setdefault(of, OrderedDict())
        if key not in kept:
            kept[key] = _worked_out(unit)
            if len(kept) > KEPT:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]


@contextmanager
def _turn(gone: Event) -> Iterator[None]:
    """Wait for what others asked, unless the reader leaves: who goes on fast leaves many behind."""
    while not _LOCK.acquire(timeout=LOOK_S):
        check_there(gone)
    try:
        check_there(gone)
        yield
    finally:
        _LOCK.release()


def _worked_out(unit: Unit) -> Neighbours:
    strongest = unit.cache.correlate(unit.x, unit.one, top=NEAREST + 1)
    found = [(spelled(u if isinstance(u, tuple) else (u,)), r) for u, r in strongest]
    return [(name, r) for name, r in found if name != unit.spelled][:NEAREST]
