"""Where the rows of each site of a snapshot lie, by name: told from the log. Reads nothing."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lazycache.cache.selecting import plan as planning
from lazycache.cache.selecting.plan import SitePlan
from lazycache.errors import SiteNotFoundError, nearest
from lazycache.types import SiteSpec


class SnapshotShards(Protocol):
    """What is asked of a snapshot."""

    @property
    def sites(self) -> Any:
        """Site name to `SiteSpec`."""
        ...

    def shards(self, site: str) -> Any:
        """Shards of a site in row order, each with `.ref` and `.row_start`."""
        ...


class SitePlans:
    """The sites of one snapshot, and the plan of each; `url` is where it is, for people."""

    def __init__(self, snapshot: SnapshotShards, *, url: str) -> None:
        self._snapshot = snapshot
        self._url = url
        self._plans: dict[str, SitePlan] = {}

    def spec(self, site: str) -> SiteSpec:
        """Return what a row of the site is.

        Raises:
            SiteNotFoundError: there is no such site.
        """
        spec: SiteSpec | None = self._snapshot.sites.get(site)
        if spec is None:
            there = nearest(site, self._snapshot.sites)
            raise SiteNotFoundError(f"there is no site {site!r} in {self._url}. {there}")
        return spec

    def plan(self, site: str) -> SitePlan:
        """Return where the rows of a site lie; built when first asked for (O(its chunks))."""
        plan = self._plans.get(site)
        if plan is None:
            plan = planning.build(self.spec(site), self._snapshot.shards(site))
            self._plans[site] = plan
        return plan

    def covered(self, site: str, rows: np.ndarray) -> np.ndarray:
        """Return for each absolute row whether the site has it: bool[n]. Reads nothing."""
        return self.plan(site).covered(np.asarray(rows, dtype=np.int64))

    def covered_spans(self, site: str) -> tuple[np.ndarray, np.ndarray]:
        """Return first rows and stops of the longest runs of rows that the site has."""
        return self.plan(site).covered_spans()
