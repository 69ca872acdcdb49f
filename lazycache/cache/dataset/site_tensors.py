"""The sites of a dataset as lazy tensors, by the names that a person may give them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.names.head_names import HeadName, parse
from lazycache.cache.names.name_lookup import resolve
from lazycache.cache.reading.heads import place_of
from lazycache.cache.reading.source import Source
from lazycache.cache.selecting.plan_checks import check_spec
from lazycache.cache.tables.row_origins import Origin
from lazycache.cache.tables.token_ids import INPUT_IDS, TOKEN_ID, TokenIdReader
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.types import CALLS_OF, RAGGED, TOKENS, SiteSpec

if TYPE_CHECKING:
    from lazycache.cache.dataset.site_examples import SiteExamples
    from lazycache.cache.dataset.stored_sites import StoredSites


@dataclass(frozen=True, slots=True)
class SiteTensors:
    """Makes lazy tensors of the sites of a dataset. Reads nothing."""

    sites: StoredSites
    """The sites."""
    examples: SiteExamples
    """Which of their rows each example has."""
    budget_bytes: int
    """What an implicit load may take."""

    def named(self, site: object) -> LazyTensor | RaggedTensor:
        """Return a site, a head of one, or the ids of the tokens.

        Args:
            site: Its name, or another that `name_lookup.resolve` knows: `("resid_post", 3)`.

        Raises:
            SiteNotFoundError: no such site; names the nearest.
        """
        there = self.sites.sites
        if has_token_ids(self.sites, site):
            return self._token_ids()
        name = site if isinstance(site, str) and site in there else resolve(site, self.sites.names)
        spec = there.get(name)
        if spec is not None:
            return self._whole(spec)
        head = parse(name)
        assert head is not None, "what is found is a site, or a head of one"
        return self._head(head)

    def _token_ids(self) -> LazyTensor:
        source = Source(
            reader=TokenIdReader(self.sites),
            spec=TokenIdReader.spec,
            url=self.sites.url,
            examples=partial(self.examples.of_table, TOKENS),
            budget_bytes=self.budget_bytes,
            origins=partial(_of_table, self.sites, TOKENS),
            reopen=self.sites.address,
        )
        return LazyTensor(source)

    def _whole(self, spec: SiteSpec) -> LazyTensor | RaggedTensor:
        """Return all rows of a site."""
        if spec.name not in self.sites.reader.computed:
            check_spec(spec)
        calls_of = {calls: table for table, calls in CALLS_OF.items()}.get(spec.table)
        source = Source(
            reader=self.sites.reader,
            spec=spec,
            url=self.sites.url,
            examples=partial(self.examples.of_site, spec),
            budget_bytes=self.budget_bytes,
            called=None if calls_of is None else partial(self.examples.of_table, calls_of),
            origins=partial(_of_table, self.sites, spec.table),
            reopen=self.sites.address,
        )
        return RaggedTensor(source) if spec.layout == RAGGED else LazyTensor(source)

    def _head(self, name: HeadName) -> LazyTensor | RaggedTensor:
        """Return one head of a site, without its dimension."""
        spec = self.sites.sites[name.site]
        one = self.sites.reader.computed.get(spec.name)
        stored = None if one is None else one.source
        place = place_of(self.sites.snapshot, name, spec, stored=stored)
        x = self._whole(spec)
        if isinstance(x, RaggedTensor):
            return x[:, place]
        return x[(*(slice(None),) * x.lead_ndim, place)]


def has_token_ids(sites: StoredSites, name: object) -> bool:
    """Whether `name` is that of the ids of the tokens, and these were stored."""
    if not isinstance(name, str) or name != INPUT_IDS or name in sites.sites:
        return False
    return TOKEN_ID in sites.snapshot.columns(TOKENS)


def _of_table(sites: StoredSites, table: str, rows: np.ndarray) -> tuple[Origin, ...]:
    # no closure: it is pickled with tensors that are computed of these rows
    return (Origin(sites, table, rows, slice(None)),)
