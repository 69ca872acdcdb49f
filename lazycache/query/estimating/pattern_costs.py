"""What attention patterns cost: the log says how wide the rows of a chunk are together."""

from __future__ import annotations

import numpy as np

from lazycache.cache.reading.costs import Once, Tally
from lazycache.cache.reading.site_reader import SiteReader
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.plan_checks import WIDTH_BYTES
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import QueryError


def of_patterns(x: RaggedTensor) -> Tally:
    """Return what `x.load()` reads at most: the chunks of its rows, and the widths of these.

    Each row may be a request for itself in each head, where widths differ.

    Raises:
        QueryError: it is computed or joined: ask for the cost of its parts.
    """
    reader = x.source.reader
    if not isinstance(reader, SiteReader):
        raise QueryError(f"{x!r} is computed: the cost is that of what it is computed of.")
    plan = reader.plan(x.site)
    rows = as_array(x.selection.rows)
    if not len(rows):
        return Tally()
    chunks = np.unique(plan.places(rows)[0])
    twice = int(np.unique(rows, return_counts=True)[1].max())
    widths = int(plan.sizes[chunks].sum()) * WIDTH_BYTES
    once = Once((x.site, "widths"), requests=len(chunks), nbytes=widths)
    nbytes = int(plan.nbytes[chunks].sum()) * twice
    heads = plan.spec.shape[0]
    return Tally(len(rows) * heads, len(rows) * heads, nbytes, frozenset([once]), exact=False)
