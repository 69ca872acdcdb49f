"""What a dataset asks of the stage above, which answers SQL, and what it says for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lazycache.cache.aggregates.statistics import Statistics
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites
    from lazycache.cache.reading.row_reader import RowReader


class Connection(Protocol):
    """What answers SQL over a snapshot: `lazycache.query.sql.connection.Connection`."""

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        tables: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the result of one query."""
        ...

    def close(self) -> None:
        """Release the index."""
        ...


Connect = Callable[..., Connection]
"""Makes one of snapshot, reader and store, and of `kept` and `statistics` as in `Answered`; given
by the front door, since queries are a stage above this one."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What SQL is told of the rows of a dataset beside its snapshot."""

    kept: Mapping[str, tuple[np.ndarray, np.ndarray]] | None
    """First rows and stops of the rows that may be asked, of each table; None: all."""
    sites: StoredSites
    """The dataset, without the connection that this is for: it would never be let go."""

    @classmethod
    def of(cls, sites: StoredSites) -> Answered:
        """Return what is told of the sites of a dataset. Asks the tables if rows were chosen."""
        kept = None if sites.restriction is None else sites.restriction.kept()
        return cls(kept, sites.apart())

    def of_site(self, site: str) -> Statistics | None:
        """Return the statistics of a site over the rows that may be asked; None of no rows.

        Cost: as `LazyTensor.statistics`: of what has stored statistics no shard is read.
        """
        x = self.sites.tensor(site)
        # none of the others: what has units has rows of one shape
        return x.statistics() if isinstance(x, LazyTensor) and self.sites.rows(site) else None


def connected(
    sites: StoredSites,
    connect: Connect | None,
    reader: RowReader,
    statistics: Callable[[str], Any] | None = None,
) -> Connection:
    """Return what answers SQL over the rows of a dataset with the values of a reader.

    `statistics` gives what the table of that name shows; None: those of the dataset.

    Raises:
        QueryError: there is nothing that connects.
    """
    if connect is None:
        raise QueryError("This cache was made without SQL; lc.open(url) has it.")
    asked = Answered.of(sites)
    return connect(
        sites.snapshot,
        reader,
        sites.store,
        kept=asked.kept,
        statistics=statistics or asked.of_site,
    )
