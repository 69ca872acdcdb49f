"""The sizes that every part of the writer goes by."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lazycache.errors import CaptureError
from lazycache.types import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How much is held, how much goes into a file, how much into a commit."""

    queue_bytes: int
    """Bytes that may wait to be written; the next batch then waits too."""
    shard_bytes: int
    """Bytes after which a shard ends."""
    chunk_rows: int
    """Rows that a chunk has at most."""
    commit_bytes: int
    """Bytes after which a commit begins by itself."""
    commit_seconds: float
    """Age of the oldest row not committed at which a commit begins by itself."""
    rank: int
    """Number of this process among those that write; part of every file name."""
    statistics: bool = True
    """Whether shards get statistics."""
    session: Session | None = None
    """What the first commit begins: this process as its rank; None of one that writes alone."""
    tiles: Mapping[str, int] = field(default_factory=dict)
    """Site to the units of the tiles that its rows are to be cut into, where they can be."""

    def __post_init__(self) -> None:
        for name in ("queue_bytes", "shard_bytes", "chunk_rows", "commit_bytes"):
            value = getattr(self, name)
            if type(value) is not int or value <= 0:
                raise CaptureError(f"{name} must be a positive whole number, not {value!r}")
        seconds = self.commit_seconds
        if type(seconds) not in (int, float) or not 0 < seconds < math.inf:
            raise CaptureError(f"commit_seconds must be a positive number, not {seconds!r}")
        if self.rank < 0:
            raise CaptureError(f"rank must not be negative, but is {self.rank}")
