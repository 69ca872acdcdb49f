"""What the feed hands to the workers: links of one list, each with running totals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lazycache.writer.parts import Part
from lazycache.writer.transaction import Transaction


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Load:
    """One batch as the workers take it."""

    parts: Mapping[int, list[Part]]
    """Worker to its parts. Workers take them out, so that the list keeps no tensor alive."""
    nbytes: int
    """What the parts cost together."""
    table_rows: Mapping[str, int]
    """Table name to rows."""
    sites: int
    """Sites seen so far: they share the queue."""


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One link of the list; this class itself is only its first link."""

    charged: int = 0
    """Bytes charged by this and all earlier jobs."""
    rows: int = 0
    """Rows of tables in this and all earlier jobs."""
    marked: int = 0
    """Value of `charged` at the last mark."""
    since: float | None = None
    """When the oldest batch after the last mark came; None: there is none."""
    last: Transaction | None = None
    """Transaction of the last mark."""
    next: Job | None = None
    """The following job, once there is one."""


@dataclass(slots=True, eq=False, kw_only=True)
class Batch(Job):
    """A batch to be written."""

    load: Load
    """Its rows."""


@dataclass(slots=True, eq=False, kw_only=True)
class Mark(Job):
    """The end of a transaction: hand over its files."""

    transaction: Transaction
    """What they are handed over to; also the `last` of the following jobs."""


@dataclass(slots=True, eq=False, kw_only=True)
class Flush(Job):
    """A caller waits for room that only open chunks hold: write the largest of them."""

    need: int
    """Bytes of the batch that waits."""


@dataclass(slots=True, eq=False, kw_only=True)
class Stop(Job):
    """The end of the list."""
