"""`lc.verify`: whether files are what the log says, and values what the model gives again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lazycache.cache.files.parallel import ordered, threads
from lazycache.care.checks.files_check import FilesCheck
from lazycache.care.checks.log_check import CheckedLog, check_checkpoints, check_log
from lazycache.care.checks.report import Compared, Findings, Report
from lazycache.care.checks.shards_check import ShardCheck
from lazycache.care.checks.tables_check import Tables
from lazycache.catalog.identity import read_identity
from lazycache.catalog.name_patterns import matching
from lazycache.catalog.snapshot import PlacedShard, Snapshot
from lazycache.errors import SiteNotFoundError, nearest
from lazycache.progress import progress_bar
from lazycache.storage.layout import IDENTITY
from lazycache.storage.open_store import Url, open_store
from lazycache.storage.store import Store
from lazycache.types import SiteSpec

if TYPE_CHECKING:
    from torch import nn

_REMOTE_SHARDS = 8  # shards of a store in the distance that are read at a time: a piece each


def verify(
    url: Url,
    *,
    sites: str | Sequence[str] | None = None,
    against_model: nn.Module | None = None,
    tokenizer: Any = None,
    k: int = 100,
    seed: int = 0,
    progress: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Check every file of a dataset against its log; with a model, also rows against the model.

    Looked at are: the log, record by record; the length of every file; the checksum of every chunk,
    array and value; Parquet footers; rows, columns and examples of table files; that every shard
    names the rows of its table (`example`, `position`, `call`); statistics, computed again; files
    that no commit names, and replaced ones that an older version still needs. Nothing is written.

    Args:
        url: Its folder or URL.
        sites: Names or patterns of the sites whose shards are read; None: all. The log and the
            files of tables and values are checked in any case.
        against_model: The model that the runs were captured from. The batches of `k` random
            examples are run again as they were, and the values compared bit by bit.
        tokenizer: Its tokenizer, if the run is to be compared with it too.
        k: How many examples of each run are run again.
        seed: Of the choice.
        progress: Show a bar on a terminal or in a notebook.
        storage_options: Handed to fsspec.

    Returns:
        The report: true if nothing is wrong, else its `problems` say file, site and commit, what is
        wrong and what to do. `print(report)` shows all of it.

    Raises:
        DatasetNotFoundError: there is no dataset.
        FormatVersionError: a newer lazycache wrote it.
        CorruptShardError: `lazycache.json` is damaged, so that nothing else is known.
        SiteNotFoundError: no site of this name.
        CaptureError: the model cannot be run on what is stored; says why.
        StorageError: the store failed.

    Cost: reads all files once, shards in pieces of 16 MiB, each table file as a whole. Most of the
    time goes into statistics, 10 to 25 ns of a core for each value; shards without them are read at
    the speed of checksums and disk, one to two GB/s.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model, url = torch.nn.Sequential(torch.nn.Linear(2, 3)), tempfile.mkdtemp()
        >>> with lc.capture(model, url, "0"):
        ...     _ = model(torch.ones(4, 2))
        >>> report = lc.verify(url)
        >>> report.ok, report.counts["commits"], report.counts["chunks"]
        (True, 1, 1)
    """
    store = open_store(url, create=False, storage_options=storage_options)
    identity = read_identity(store)
    found = Findings()
    log = check_log(store, identity, found)
    if not found.problems:
        check_checkpoints(store, identity, log, found)
    chosen = _chosen(log.snapshot, sites)
    _check_shards(store, log.snapshot, chosen, found, show=progress)
    orphans, orphan_bytes = _check_files(store, log, found)
    compared: Sequence[Compared] = ()
    if against_model is not None:
        from lazycache.care.checks.model_check import compare

        compared = compare(
            against_model,
            store,
            log.snapshot,
            chosen,
            found=found,
            tokenizer=tokenizer,
            count=k,
            seed=seed,
            show=progress,
        )
    return Report(
        store.url,
        version=log.snapshot.version,
        problems=tuple(found.problems),
        more=found.more,
        counts=dict(found.counts),
        orphans=tuple(orphans),
        orphan_bytes=orphan_bytes,
        compared=tuple(compared),
        notes=tuple(found.notes),
    )


def _chosen(snapshot: Snapshot, sites: str | Sequence[str] | None) -> list[SiteSpec]:
    """Return the sites that are read."""
    if sites is None:
        return list(snapshot.sites.values())
    names: dict[str, None] = {}
    for pattern in [sites] if isinstance(sites, str) else sites:
        some = matching(pattern, snapshot.sites)
        if not some:
            raise SiteNotFoundError(f"No site {pattern!r}. {nearest(pattern, snapshot.sites)}")
        names |= dict.fromkeys(some)
    return [snapshot.sites[name] for name in names]


def _check_shards(
    store: Store, snapshot: Snapshot, chosen: Sequence[SiteSpec], found: Findings, *, show: bool
) -> None:
    """Check shards in the order of the rows, so that a table file is read once for all sites."""
    shards = sorted(_placed(snapshot, chosen), key=lambda item: (item[0].table, item[1].row_start))
    tables = Tables(store, snapshot, found)
    shard_check = ShardCheck(store, tables, found)
    total = sum(placed.ref.length for _, placed in shards)
    workers = threads(total) if store.local_path(IDENTITY) is not None else _REMOTE_SHARDS

    def check(item: tuple[SiteSpec, PlacedShard]) -> int:
        shard_check.check(*item)
        return 1

    with progress_bar("verify", total=len(shards), unit=" shards", show=show) as bar:
        for done in ordered(check, shards, workers=workers):
            bar.advance(done)
    tables.check_all()


def _placed(
    snapshot: Snapshot, chosen: Sequence[SiteSpec]
) -> Iterator[tuple[SiteSpec, PlacedShard]]:
    for spec in chosen:
        yield from ((spec, placed) for placed in snapshot.shards(spec.name))


def _check_files(store: Store, log: CheckedLog, found: Findings) -> tuple[list[str], int]:
    files = FilesCheck(store, found)
    files.arrays(log.snapshot)
    files.entries(log.snapshot.entries.values())
    # of a log that ends early, nobody knows what the rest of it names
    whole = not any(problem.path and problem.path.startswith("_log/") for problem in found.problems)
    return files.orphans(log.commits) if whole else ([], 0)
