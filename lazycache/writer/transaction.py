"""What one commit will add, gathered from the workers."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field

from lazycache.types import ShardRef, TableFileRef


@dataclass(slots=True)
class Files:
    """Finished files that no commit names yet."""

    shards: list[ShardRef] = field(default_factory=list)
    """Activation shards."""
    tables: list[TableFileRef] = field(default_factory=list)
    """Files of table rows."""

    def add(self, other: Files) -> None:
        """Take the files of another over."""
        self.shards += other.shards
        self.tables += other.tables

    @property
    def paths(self) -> list[str]:
        """Where the files are."""
        stats = [ref.stats.path for ref in self.shards if ref.stats is not None]
        return [ref.path for ref in self.shards] + [ref.path for ref in self.tables] + stats


@dataclass(slots=True, eq=False)
class Transaction:
    """Batches that become visible together. Guarded by the lock of the feed."""

    waiting: int
    """Workers that have not handed over their files."""
    rows: int
    """Rows of tables in this and all earlier transactions."""
    files: Files = field(default_factory=Files)
    """What was handed over."""
    txn: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Name of the attempt."""
    made: float = field(default_factory=time.time)
    """When it was closed: files of the next one are not older."""
    attempted: bool = False
    """Whether a log record may exist: its files must then be left alone."""
    version: int | None = None
    """Version that it became."""
