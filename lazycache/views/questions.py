"""Questions of the command line: what is asked of a cache, as tables and as bars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.asked import tensor_of
from lazycache.views.forms import TableAnswer

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from lazycache.cache.aggregates.histogram import Histogram
    from lazycache.cache.aggregates.statistics import Statistics
    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.hits import Hits

WIDTH = 50
"""Letters of the longest bar."""

SIDE, LEAST_SIDE = 40, 12
"""Letters of a context on each side in a table: at most, and on the narrowest terminal."""

NUMBERS = 52
"""Columns of such a table that are no context."""


def unit_of_text(text: str | None) -> tuple[int, ...] | None:
    """Read a unit: an index for each dimension of a row; None is one that was not given.

    Raises:
        QueryError: no whole numbers.

    Example:
        >>> unit_of_text("412"), unit_of_text("3,17"), unit_of_text(None)
        ((412,), (3, 17), None)
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as exc:
        raise QueryError(
            f"unit {text!r}: give its number, from 0; where a row has heads, head and unit: 3,17."
        ) from exc


def hits_answer(hits: Hits | list[Hits], *, shortened: bool) -> TableAnswer:
    """Return rows that were found, without the columns that say nothing.

    With `shortened` contexts are cut to what a line holds.
    """
    assert not isinstance(hits, list), "of one question"
    table = hits.arrow()
    # as a text reads: what is before a token, the token, what is after it
    names = ["value", "row", "example", "position", "before", "token", "after"]
    said = [name for name in names if table.num_rows == 0 or table[name].null_count < len(table)]
    chosen = table.select(said)
    return TableAnswer(_cut(chosen) if shortened else chosen)


def _cut(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    from lazycache.views.render import console

    side = min(max((console.width - NUMBERS) // 2, LEAST_SIDE), SIDE)
    cuts = {"before": slice(-side, None), "after": slice(side)}
    for name, cut in cuts.items():
        if name in table.column_names:
            texts = [None if t is None else t[cut] for t in table[name].to_pylist()]
            at = table.column_names.index(name)
            table = table.set_column(at, name, pa.array(texts, pa.string()))
    return table


def vector_of_row(cache: ActivationCache, site: str, row: int) -> torch.Tensor:
    """Return what a site has of a row of its table. Reads that row.

    Raises:
        QueryError: there is none.
    """
    x = tensor_of(cache, site)
    # not by where(): `row` of examples is a column of that name, too
    there = 0 <= row <= np.iinfo(np.int64).max
    at, reader = np.array([row if there else 0]), x.source.reader
    if not there or not reader.covered(x.site, at)[0]:
        raise QueryError(
            f"{site} has no row {row}: it has {cache.rows(x.site):,}, and the column `row` of "
            "SQL numbers them."
        )
    return reader.read(x.site, at)[0]


def statistics_answer(found: Statistics, shape: Sequence[int]) -> TableAnswer:
    """Return the numbers of each unit as a table, a row for each unit."""
    import pyarrow as pa

    columns = {"unit": _units(shape)}
    for name in ("min", "max", "mean", "std", "nans", "pos_infs", "neg_infs"):
        values = getattr(found, name).reshape(-1)
        columns[name] = pa.array(values.tolist())
    return TableAnswer(pa.table(columns))


def _units(shape: Sequence[int]) -> pa.Array:
    import pyarrow as pa

    if len(shape) == 1:
        return pa.array(range(shape[0]))
    return pa.array([",".join(map(str, place)) for place in np.ndindex(*shape)])


def histogram_answer(found: Histogram) -> TableAnswer:
    """Return the bins as a table: from, to, count."""
    import pyarrow as pa

    edges = found.edges.tolist()
    return TableAnswer(
        pa.table({"from": edges[:-1], "to": edges[1:], "count": found.counts.tolist()})
    )


def bars(found: Histogram) -> list[str]:
    """Return the bins as lines of text, with what is in none of them at the end."""
    counts, edges = found.counts.tolist(), [f"{edge:.4g}" for edge in found.edges.tolist()]
    wide, most = max(map(len, edges)), max(*counts, 1)
    shown = [f"{n:,}" for n in counts]
    right = max(map(len, shown))
    mark = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    lines = [
        f"{low:>{wide}} … {high:>{wide}}  {n:>{right}}  {mark * _length(count, most)}".rstrip()
        for low, high, n, count in zip(edges, edges[1:], shown, counts, strict=False)
    ]
    return [*lines, *_left(found)]


def _length(count: int, most: int) -> int:
    """Return how long a bar is: what is there is never nothing."""
    return max(round(count / most * WIDTH), 1 if count else 0)


def _left(found: Histogram) -> list[str]:
    beside = {
        "below": found.below,
        "above": found.above,
        "NaN": found.nans,
        "inf": found.pos_infs,
        "-inf": found.neg_infs,
    }
    said = [f"{name} {int(count):,}" for name, count in beside.items() if int(count)]
    return [f"in no bin: {', '.join(said)}"] if said else []


def dense(cache: ActivationCache, site: str, where: str | None) -> LazyTensor:
    """Return a site whose rows have one shape, or those of its rows that are meant."""
    return tensor_of(cache, site, where=where)
