"""How old files are by the clock of the store that wrote their times, if it can be trusted."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from lazycache.catalog.checkpoints import outdated_packs
from lazycache.storage.layout import LOG_PREFIX, parse_log_path
from lazycache.storage.store import ObjectInfo, Store

PROBE = f"{LOG_PREFIX}probe-"
"""How objects are called that are written to learn a store's time; they are no records."""

_PROBE = re.compile(rf"{PROBE}[0-9a-f]{{32}}")
_AHEAD_S = 60.0  # files that are this much younger than now: the clock was set back


@dataclass(frozen=True, slots=True)
class Times:
    """The time of a store, and when its commits were made."""

    now: float
    """Seconds since the epoch; 0.0 if the store does not say."""
    commits: dict[int, float]
    """Version to when its record was written."""
    newest: float
    """The youngest of all objects of the log."""
    spare: tuple[ObjectInfo, ...]
    """Objects of the log that no reader needs: probes that others have left or are using, and packs
    that larger ones have replaced."""

    def age_of_commit(self, version: int) -> float:
        """Return the seconds since a commit; 0.0 if the listing lacks it."""
        return self.now - self.commits.get(version, self.now)

    def doubt(self, files: Iterable[ObjectInfo]) -> str | None:
        """Say why ages cannot be told; None: they can."""
        times = [info.modified for info in files]
        if not self.now or not all(times) or not all(self.commits.values()):
            return "the store does not say when its objects were written"
        ahead = max([self.newest, *times]) - self.now
        if ahead > _AHEAD_S:
            return (
                f"its clock was set back: there are files that are {ahead:,.0f} seconds younger "
                "than now"
            )
        return None


def store_times(store: Store, *, write: bool) -> Times:
    """Return the times of a store: those of the log, and what it says of an object written now.

    Args:
        store: The store.
        write: False writes nothing and takes the clock of this machine for now.

    Cost: one write, one listing of the log, one deletion.

    Raises:
        StorageError: the store failed.
    """
    probe = f"{PROBE}{uuid.uuid4().hex}"
    if write:
        store.put(probe, b"what time is it?")
    try:
        listed = list(store.list(LOG_PREFIX))
    finally:
        if write:
            store.delete(probe)
    mine = [info.modified for info in listed if info.path == probe]
    others = [info for info in listed if info.path != probe]
    outdated = set(outdated_packs(info.path for info in others))
    versions = {parse_log_path(info.path): info.modified for info in others}
    return Times(
        now=(mine[0] if mine else 0.0) if write else time.time(),
        commits={version: at for version, at in versions.items() if version is not None},
        newest=max((info.modified for info in others), default=0.0),
        spare=tuple(
            info for info in others if info.path in outdated or _PROBE.fullmatch(info.path)
        ),
    )
