"""Why goals are missed: what was found out, said once, shown where a run misses them.

A cause is about the goals of a stage whose operation and words fit two globs. Where a goal is
reached nothing is shown of it, and a missed goal without a cause is named as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Cause:
    """What keeps ours from some goals."""

    stage: str
    operation: str
    """A glob of the operation's name: sizes stand in it."""
    goal: str
    """A glob of the goal as the stage words it."""
    text: str

    def explains(self, stage: str, operation: str, goal: str) -> bool:
        """Whether it is about this goal."""
        return (
            self.stage == stage
            and fnmatchcase(operation, self.operation)
            and fnmatchcase(goal, self.goal)
        )


CAUSES = (
    Cause(
        "capture",
        "capture + commit",
        "forward only*",
        "the forward pass uses every core, so what copies, checks and writes takes its processor "
        "time from it; the parts are in its table, and neighbours on the machine move single "
        "figures by more than the goal leaves",
    ),
    Cause(
        "capture",
        "capture + commit",
        "best peer*",
        "the files by hand are not synced to the disk and have no checksums and no statistics; "
        "those of torch and Arrow are then the bytes alone",
    ),
    Cause(
        "smollm2",
        "*all resid_out",
        "forward only*",
        "the threads of a forward pass wait for each other in every layer, so what copies, sums up "
        "and writes on one of the two cores delays both; and each of 30 sites has a first chunk to "
        "rank and two files to sync, which is most of what comes behind so short a run",
    ),
    Cause(
        "write",
        "numbers of *, one core",
        "MB/s*",
        "extremes, sums, squares and the greatest rows of every unit are several passes over a "
        "tile that lies in the second-level cache; their times are taken apart in "
        "design/decisions/2026-11-22-writer-speed.md",
    ),
    Cause(
        "write",
        "write *, disk",
        "*",
        "statistics and the write of a chunk take turns on the thread of its site, and first "
        "chunks, whose greatest values are all new, take twice as long as later ones; a site of "
        "this size has three",
    ),
    Cause(
        "write",
        "write *, tmpfs",
        "*",
        "files, tables and the commit have a fixed price of a few milliseconds, which shows in "
        "a run of this size",
    ),
    Cause(
        "read",
        "7,000 consecutive rows, and their sum*",
        "*",
        "every load is a private map of its own, whose pages are mapped anew when they are first "
        "touched; a map that everybody shares has them",
    ),
    Cause(
        "read",
        "4,096 random rows*",
        "*",
        "rows are looked up in chunks and counted before they are gathered, which a bare map does "
        "not do; the gather itself is as fast",
    ),
    Cause(
        "query",
        "*top 20 of a unit, * ms a request",
        "limit*",
        "the few requests follow each other, each waiting as long as the first byte takes",
    ),
    Cause(
        "query",
        "*top 20 of a unit",
        "seconds*",
        "the search takes a millisecond; the tokens around twenty hits, which come from tables, "
        "take the rest, and are found in tables that earlier units have read or not",
    ),
    Cause(
        "query",
        "*top 20 of a unit, cold",
        "*",
        "what is read is small, so the time is that of opening and of the first requests, and a "
        "scan of a set of this size takes a fraction of a second",
    ),
    Cause(
        "query",
        "*SQL: all values of 0.1 % of the rows",
        "*",
        "DuckDB takes some milliseconds for any query, and this set is loaded in a few tens",
    ),
    Cause(
        "query",
        "*SQL: mean of a unit over 0.1 % of the rows",
        "*",
        "DuckDB takes some milliseconds for any query, and over all rows of this set not many more",
    ),
    Cause(
        "query",
        "*means of all units by label*",
        "*",
        "all values are widened to float64 before they are added up; pandas begins with the values "
        "in its memory, already widened",
    ),
    Cause(
        "query",
        "*20 nearest to a vector, beside memory",
        "*",
        "bfloat16 is widened to float32 for the product: more arithmetic than a read of memory",
    ),
    Cause(
        "loader",
        "an epoch of * a batch, warm",
        "*",
        "the copies take under half of the processor time, on two threads; orders, addresses and "
        "handing batches from thread to thread take the rest (taken apart in "
        "design/decisions/2026-11-22-training-feed.md)",
    ),
    Cause(
        "loader",
        "an epoch of * a batch, cold",
        "*",
        "the epoch has three windows, and nothing is beside the wait for the first one; blocks of "
        "64 KiB that lie apart come more slowly than a file from its beginning to its end",
    ),
    Cause(
        "loader",
        "an epoch of * beside peers, warm",
        "*",
        "that peer hands rows on in blocks that it has shuffled in memory once",
    ),
    Cause(
        "remote",
        "one layer of ten neighbours",
        "limit*",
        "beside the one request there is only the work of finding it and of making the tensor",
    ),
    Cause(
        "open",
        "one of * commits",
        "*",
        "every hundredth commit packs the log, and a longer log has longer packs",
    ),
    Cause(
        "open",
        "open, *",
        "seconds*",
        "every commit that is not packed yet is a file to read",
    ),
)


def cause_of(stage: str, operation: str, goal: str) -> str:
    """Return why a goal is missed, or that nobody has said."""
    found = (one.text for one in CAUSES if one.explains(stage, operation, goal))
    return next(found, "no cause is written down in benchmarks/causes.py")
