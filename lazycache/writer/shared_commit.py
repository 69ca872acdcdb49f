"""One log record for what several processes have written: `commit="group"`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lazycache.catalog import records
from lazycache.errors import CaptureError
from lazycache.types import Commit, ShardRef, SiteSpec
from lazycache.writer.group import Group


def commit_shared(group: Group, draft: Commit, append: Callable[[Commit], int]) -> int:
    """Commit the drafts of all processes as one record of rank 0; return the version.

    Every draft declares every site that it has rows of.

    Raises:
        CaptureError: another process failed, or the drafts do not fit together: nothing of them
            is committed then, but where a process ended after rank 0 had written the record.
        LazycacheError: what `append` raises, on rank 0.
    """
    mine = group.each(lambda: records.encode(replace(draft, version=1)))
    records_of = group.exchange(mine)

    def commit() -> int:
        others = [records.decode(record, version=1) for record in records_of[1:]]
        return append(merged_drafts([draft, *others]))

    return group.first(commit)


def merged_drafts(drafts: Sequence[Commit]) -> Commit:
    """Return one draft with the rows of all, those of the first draft first.

    Raises:
        CaptureError: two of them make different things of one site, or are of different runs.

    Example:
        >>> drafts = [Commit(1, name, "w", "now", "main") for name in "ab"]
        >>> merged_drafts(drafts).txn
        'a'
    """
    sites: dict[str, SiteSpec] = {}
    merged = replace(drafts[0], tables=(), shards=())
    rows: Counter[str] = Counter()
    for rank, draft in enumerate(drafts):
        _check_fits(draft, drafts[0], sites, rank=rank)
        sites |= {site.name: site for site in draft.sites}
        merged = replace(
            merged,
            tables=merged.tables
            + tuple(
                replace(file, row_start=rows[file.table] + file.row_start) for file in draft.tables
            ),
            shards=merged.shards + tuple(_moved(shard, rows, sites) for shard in draft.shards),
        )
        for file in draft.tables:
            rows[file.table] += file.rows
    return replace(
        merged,
        sites=tuple(sites[name] for name in sorted(sites)),
        tables=tuple(sorted(merged.tables, key=lambda file: (file.table, file.row_start))),
        shards=tuple(sorted(merged.shards, key=lambda shard: (shard.site, shard.row_start))),
    )


def _moved(shard: ShardRef, rows: Mapping[str, int], sites: Mapping[str, SiteSpec]) -> ShardRef:
    """Return a shard behind the rows that are there; `rows` counts before its own draft."""
    if shard.covers is not None:
        return shard
    return replace(shard, row_start=rows[sites[shard.site].table] + shard.row_start)


def _check_fits(draft: Commit, first: Commit, sites: Mapping[str, SiteSpec], *, rank: int) -> None:
    if draft.run != first.run:
        raise CaptureError(
            f"Rank 0 captures run {first.run!r}, rank {rank} run {draft.run!r}: processes that "
            "commit together have one run."
        )
    for site in draft.sites:
        other = sites.get(site.name, site)
        if other != site:
            raise CaptureError(
                f"Site {site.name!r} is {site} on rank {rank}, and {other} on a rank before it. "
                "One dataset has one shape and dtype per site."
            )
