"""Which commits cannot follow one that replaced files, removed or sealed a run, or took over.

Pure.
"""

from __future__ import annotations

from lazycache.errors import CommitConflictError
from lazycache.types import Commit


def check_care(mine: Commit, theirs: Commit) -> None:
    """Raise unless `mine` can still follow after `theirs`.

    Raises:
        CommitConflictError: says what the other commit has done, and what to do.
    """
    _check_files(mine, theirs)
    _check_run(mine, theirs)
    _check_session(mine, theirs)


def _check_files(mine: Commit, theirs: Commit) -> None:
    gone = {path for drop in theirs.drops for path in drop.paths}
    twice = gone & {path for drop in mine.drops for path in drop.paths}
    covers = any(shard.covers is not None for shard in mine.shards)
    if twice:
        raise CommitConflictError(
            f"{theirs.writer} has just replaced {min(twice)!r}, which this commit replaces too. "
            "Nothing was changed: begin again."
        )
    if set(mine.sealed) & set(theirs.removed):
        raise CommitConflictError(
            f"{theirs.writer} has just removed run {mine.sealed[0]!r}: there is nothing to seal."
        )
    if theirs.removed and (covers or mine.drops or mine.removed):
        raise CommitConflictError(
            f"{theirs.writer} has just removed run {theirs.removed[0]!r}: rows that this commit is "
            "about may be gone. Open the dataset again and begin anew."
        )


def _check_run(mine: Commit, theirs: Commit) -> None:
    adds = any(table.covers is None for table in mine.tables)
    declared = {run.name for run in mine.runs}
    if mine.run in theirs.removed and mine.run not in declared and (adds or mine.arrays):
        raise CommitConflictError(
            f"{theirs.writer} has just removed run {mine.run!r}, which this commit adds to. "
            "Capture again, or to another run."
        )
    if mine.run in theirs.sealed and adds:
        raise CommitConflictError(
            f"{theirs.writer} has just sealed run {mine.run!r}: it is complete, and nobody adds "
            "rows to it any more. Give what you capture a run of its own, run='name'."
        )


def _check_session(mine: Commit, theirs: Commit) -> None:
    """Of two processes that are the same rank of a run, the one that began last may write."""
    if mine.writer_session is None or theirs.session is None or mine.run != theirs.run:
        return
    began, own = theirs.session, mine.writer_session
    if mine.session is None and began.rank == own.rank and began.id != own.id:
        raise CommitConflictError(
            f"{theirs.writer} has taken over rank {own.rank} of run {mine.run!r} from this process:"
            " one process at a time writes as a rank. What this one has committed stays."
        )
