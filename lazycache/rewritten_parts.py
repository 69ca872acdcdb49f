"""What is rewritten of a dataset, in parts: which sites, rows, runs and arrays make one commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.matrices import Matrices
from lazycache.cache.selecting.spans import Spans, of_ranges
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.catalog.run_info import ADDS_TO
from lazycache.catalog.snapshot import Snapshot
from lazycache.codec.dtypes import by_name
from lazycache.types import RunInfo

Shown = Mapping[str, LazyTensor | RaggedTensor]
"""What is shown of a dataset: site to all of its rows."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Commits of one run that follow each other."""

    run: str
    """Its name."""
    rows: Mapping[str, tuple[int, int]]
    """Table to the first row and the stop of what they added."""


def parts(
    sites: StoredSites, shown: Shown, *, called: Mapping[str, str], most_bytes: int
) -> list[Part]:
    """Cut what is shown of a dataset into parts of one run each, to be written in order.

    A part is of whole commits: of one, or of several with about `most_bytes` of stored values. So
    of the same version they are always the same. `called` says what each run is called where it is
    written to.
    """
    snapshot = sites.snapshot
    return [Part(sites, shown, called, one) for one in _stretches(snapshot, most_bytes)]


def _stretches(snapshot: Snapshot, most_bytes: int) -> Iterator[_Stretch]:
    row_bytes = Counter[str]()
    for site in snapshot.sites.values():
        row_bytes[site.table] += site.row_bytes
    for run, additions in groupby(snapshot.additions, key=lambda addition: addition.run):
        rows: dict[str, tuple[int, int]] = {}
        size = 0
        for addition in additions:
            if size >= most_bytes:
                yield _Stretch(run, rows)
                rows, size = {}, 0
            for table, (start, stop) in addition.rows.items():
                rows[table] = (rows.get(table, (start, stop))[0], stop)
                size += (stop - start) * row_bytes[table]
        yield _Stretch(run, rows)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a dataset, and what is shown of it."""

    sites: StoredSites
    """The dataset."""
    shown: Shown
    """Its sites."""
    called: Mapping[str, str]
    """What its runs are called where they are written to."""
    stretch: _Stretch
    """Which rows."""

    @property
    def kept(self) -> Mapping[str, LazyTensor | RaggedTensor]:
        """The sites whose values are stored: all that are not computed again."""
        return {name: x for name, x in self.shown.items() if not self.follows(name)}

    def follows(self, name: str) -> bool:
        """Whether a site is computed and will be where it is written to."""
        one = self.sites.reader.computed.get(name)
        source = None if one is None else self.shown.get(one.source)
        # of a site that was converted, what follows from it would not be what is shown
        plain = by_name(self.sites.sites[name].dtype).torch if one else None
        return source is not None and source.dtype == self.shown[name].dtype == plain

    def rows(self, table: str) -> Spans:
        """Return the rows of a table that are shown."""
        start, stop = self.stretch.rows[table]
        mine = of_ranges(np.array([start]), np.array([stop]))
        restriction = self.sites.restriction
        return mine if restriction is None else mine & restriction.rows(table)

    def infos(self) -> list[RunInfo]:
        """Return the run as it is declared, and what describes sites that were added to it."""
        runs = self.sites.snapshot.runs
        run = self.stretch.run
        added = [info for info in runs.values() if info.info.get(ADDS_TO) == run]
        notes = [
            RunInfo(self.called[one.name], {**one.info, ADDS_TO: self.called[run]}) for one in added
        ]
        return [replace(runs[run], name=self.called[run]), *notes]

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the tensors of the run that computed sites need."""
        matrices, found = Matrices(self.sites.files, self.sites.io), {}
        for name, ref in self.sites.snapshot.arrays(self.stretch.run).items():
            site = name.removesuffix(".weight")
            if site in self.shown and self.follows(site):
                found[name] = matrices.get(ref, by_name(ref.dtype).torch)
        return found
