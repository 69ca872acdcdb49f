"""Which commits cannot live beside each other. Pure.

Rows never conflict: every commit adds its own. Two commits conflict when they declare one site
differently, when both give a site to the same rows that were there before, or when both give one
run an array of the same name with other values. Those that replace files, remove or seal runs are
in `care_conflicts`.
"""

from __future__ import annotations

from lazycache.catalog.care_conflicts import check_care
from lazycache.errors import CommitConflictError
from lazycache.types import ArrayRef, Commit, ShardRef, SiteSpec


def check_compatible(mine: Commit, theirs: Commit) -> None:
    """Raise unless `mine` can still follow after `theirs`.

    Raises:
        CommitConflictError: says which site or array, and what each commit makes of it.
    """
    check_care(mine, theirs)
    _check_sites(mine, theirs)
    _check_covered(mine, theirs)
    if mine.run == theirs.run:
        _check_arrays(mine, theirs)


def same_array(a: ArrayRef, b: ArrayRef) -> bool:
    """Whether two files hold the same tensor."""
    return (a.dtype, a.shape, a.value_crc) == (b.dtype, b.shape, b.value_crc)


def _check_sites(mine: Commit, theirs: Commit) -> None:
    declared: dict[str, SiteSpec] = {site.name: site for site in theirs.sites}
    for site in mine.sites:
        other = declared.get(site.name, site)
        if other != site:
            raise CommitConflictError(
                f"Site {site.name!r} was just declared by {theirs.writer} as {other}, "
                f"this commit has it as {site}. One dataset has one shape and dtype per site."
            )


def _check_covered(mine: Commit, theirs: Commit) -> None:
    later = [shard for shard in theirs.shards if shard.covers is not None]
    for shard in mine.shards if later else ():
        if any(_overlap(shard, other) for other in later):
            raise CommitConflictError(
                f"{theirs.writer} has just added site {shard.site!r} to the same rows of commit "
                f"{shard.covers}. Open the dataset again: they have the site now."
            )


def _overlap(a: ShardRef, b: ShardRef) -> bool:
    if a.covers is None or a.covers != b.covers or a.site != b.site:
        return False
    return a.row_start < b.row_start + b.rows and b.row_start < a.row_start + a.rows


def _check_arrays(mine: Commit, theirs: Commit) -> None:
    kept = {array.name: array for array in theirs.arrays}
    for array in mine.arrays:
        if not same_array(kept.get(array.name, array), array):
            raise CommitConflictError(
                f"{theirs.writer} has just given run {mine.run!r} another array {array.name!r}: "
                "one run is of one model. Give this one a run of its own, run='name'."
            )
