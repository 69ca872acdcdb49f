"""Which commits cannot live beside each other. Pure.

Rows never conflict: every commit adds its own. Two commits conflict when they declare one site
differently, or when both give a site to the same rows that were there before.
"""

from __future__ import annotations

from lazycache.errors import CommitConflictError
from lazycache.types import Commit, ShardRef


def check_compatible(mine: Commit, theirs: Commit) -> None:
    """Raise unless `mine` can still follow after `theirs`.

    Raises:
        CommitConflictError: says which site, and what each commit makes of it.
    """
    declared = {site.name: site for site in theirs.sites}
    for site in mine.sites:
        other = declared.get(site.name, site)
        if other != site:
            raise CommitConflictError(
                f"Site {site.name!r} was just declared by {theirs.writer} as {other}, "
                f"this commit has it as {site}. One dataset has one shape and dtype per site."
            )
    for shard in mine.shards:
        if any(_overlap(shard, other) for other in theirs.shards):
            raise CommitConflictError(
                f"{theirs.writer} has just added site {shard.site!r} to the same rows of commit "
                f"{shard.covers}. Open the dataset again: they have the site now."
            )


def _overlap(a: ShardRef, b: ShardRef) -> bool:
    if a.covers is None or a.covers != b.covers or a.site != b.site:
        return False
    return a.row_start < b.row_start + b.rows and b.row_start < a.row_start + a.rows
