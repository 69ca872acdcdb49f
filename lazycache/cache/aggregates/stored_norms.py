"""How long the rows of a site are on the whole, from stored statistics, where these are little."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lazycache.codec.dtypes import by_name

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites
    from lazycache.cache.reading.stored_statistics import StoredStatistics

NEAR_BYTES = 2 << 20
"""Statistics of a site that may be read from the disk for this; of other stores nothing is read."""

NEAR_READS = 64
"""Shards of a site whose statistics may be read."""


def rms_norm(sites: StoredSites, site: str) -> float | None:
    """Return the root of the mean squared Euclidean norm of all rows of a site.

    None where it is not known for little: rows without statistics, rows chosen by a condition,
    numbers that are not of floating point, a dataset that is closed or far away. NaN where a value
    is NaN; infinite where one is.

    Cost: at most `NEAR_BYTES` of statistics, on this machine, in at most `NEAR_READS` reads; then
    nothing as long as they are kept. No shard is read.

    Raises:
        CorruptShardError: the statistics are not what the log recorded.

    Example:
        >>> import tempfile, torch, lazycache as lc
        >>> model = torch.nn.Sequential(torch.nn.Embedding.from_pretrained(torch.ones(2, 256)))
        >>> cache = lc.extract(model, [[0, 1] * 16], tempfile.mkdtemp(), "0", progress=False)
        >>> rms_norm(cache.datasets[0], "0:out"), cache.io.bytes
        (16.0, 0)
    """
    found = _of_all_rows(sites, site)
    if found is None:
        return None
    chosen = np.ones(len(found.starts), dtype=np.bool_)
    missing = list(found.lacking(chosen))
    if missing and not _is_little(sites, site, missing):
        return None
    known = list(found.known(chosen, None))
    squares = sum(float(one.squares().sum()) for one in known)
    return math.sqrt(squares / sum(one.count for one in known))


def _of_all_rows(sites: StoredSites, site: str) -> StoredStatistics | None:
    """Return the statistics of a site, if they are of all rows that are here."""
    spec = sites.sites[site]
    if sites.closed or sites.restriction is not None or site not in sites.snapshot.sites:
        return None
    if not by_name(spec.dtype).torch.is_floating_point:
        return None
    found = sites.reader.statistics(site)
    if found is None or int((found.stops - found.starts).sum()) != sites.rows(site):
        return None
    return found


def _is_little(sites: StoredSites, site: str, missing: list[tuple[str, str, int]]) -> bool:
    nbytes = sum(size for _, _, size in missing)
    return sites.reader.is_near(site) and nbytes <= NEAR_BYTES and len(missing) <= NEAR_READS
