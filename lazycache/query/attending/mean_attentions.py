"""How much of their attention queries give to some tokens: a mean per head, in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.ragged_selection import ExampleGroups, batches
from lazycache.cache.tables import conditions
from lazycache.cache.tables.row_columns import table_of
from lazycache.cache.tables.row_origins import Asked, Origin, asked
from lazycache.errors import QueryError
from lazycache.query.attending.pattern_sites import Layer, is_one, keys_table, patterns_of

if TYPE_CHECKING:
    from lazycache.cache.selecting.spans import Spans
    from lazycache.cache.tensor.ragged_tensor import RaggedTensor
    from lazycache.query.asked import Cache, Params

BLOCK_ROWS = 1 << 16
"""Keys of several examples that the tables are asked about at once."""


def mean_attention(
    cache: Cache,
    layer: Layer | Sequence[Layer],
    to: str,
    *,
    to_params: Params = None,
    where: str | None = None,
    params: Params = None,
) -> torch.Tensor:
    """Return the attention that some tokens get; see `ActivationCache.mean_attention`."""
    chosen = KeyTokens(to, to_params)
    means = []
    for x in patterns_of(cache, layer):
        queries = x if where is None else x.where(where, params)
        means.append(_mean(queries, chosen))
    if is_one(layer):
        return means[0]
    if len({one.shape for one in means}) > 1:
        heads = sorted({one.numel() for one in means})
        raise QueryError(f"layers with {heads} heads are no tensor: ask about them one by one.")
    return torch.stack(means)


class KeyTokens:
    """Which keys of examples a condition is true of; a table is asked once. For one thread."""

    def __init__(self, condition: str, params: Params) -> None:
        self._condition = condition
        self._params = params
        self._kept: dict[tuple[int, str], tuple[Asked, Spans]] = {}

    def of(self, x: RaggedTensor, entries: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each example positions of its tokens and which are meant: int64[n], bool[n].

        Those that were stored; of an example all, whatever rows of it were chosen.
        """
        selection = x[entries].selection
        begins = np.cumsum(selection.lengths) - selection.lengths
        first = selection.rows[begins]
        empty = np.empty(0, dtype=np.int64)
        found = [(empty, empty.astype(np.bool_))] * len(entries)
        for origin in asked(x.source, first, shown=x.__repr__):
            places = np.arange(len(entries))[origin.members].tolist()
            tokens = self._of_dataset(origin, keys_table(x))
            for place, one in zip(places, tokens, strict=True):
                found[place] = one
        return found

    def _of_dataset(self, origin: Origin, table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions and what is meant of the examples of some rows."""
        tables = origin.tables.whole
        number, _ = tables.examples_of(origin.table).places(origin.rows)
        # example i is the same in all tables of a dataset
        examples = tables.examples_of(table)
        counts = examples.lengths[number]
        logical = ragged_arange(examples.offsets[number], counts)
        rows = as_array(examples.absolute(logical))
        meant = self._meant(tables, table).holds(rows)
        whole = Origin(tables, table, rows, slice(None))
        column = table_of([whole], ["position"], count=len(rows)).column(0)
        cuts = np.cumsum(counts)[:-1]
        positions = column.to_numpy().astype(np.int64)
        yield from zip(np.split(positions, cuts), np.split(meant, cuts), strict=True)

    def _meant(self, tables: Asked, table: str) -> Spans:
        """Return the rows of a table that the condition is true of."""
        key = (id(tables), table)
        if key not in self._kept:
            self._kept[key] = (tables, _rows_that(tables, table, self._condition, self._params))
        return self._kept[key][1]


def _rows_that(tables: Asked, table: str, condition: str, params: Params) -> Spans:
    """Return the rows of a table that a condition is true of.

    Raises:
        QueryError: it cannot be asked; names the nearest columns.
    """
    text = conditions.checked(condition, tables, what="The condition")
    failure: QueryError | None = None
    for source in conditions.sources(tables, table):
        asking = conditions.kept(tables, source, f"{table}.row", text, params)
        try:
            next(asking)  # whether it can be asked
        except QueryError as exc:
            failure = exc
            continue
        return conditions.spans_of(asking)
    raise failure or QueryError(f"There is no table {table}.")


def _mean(x: RaggedTensor, chosen: KeyTokens) -> torch.Tensor:
    """Return the mean over queries of the sum over keys: float64[heads], float64[] of one head."""
    if not isinstance(x.selection.groups, ExampleGroups):
        raise QueryError(f"{x!r} are rows one by one, which have no keys in common: ask a site.")
    entries = np.flatnonzero(x.lengths)
    queries = int(x.lengths.sum())
    if not queries:
        raise QueryError(f"no query of {x.site} is chosen, so there is no mean.")
    total = torch.zeros(x.selection.heads.shape, dtype=torch.float64)
    for part in batches(x.lengths[entries], most=BLOCK_ROWS):
        some = entries[part]
        keys = chosen.of(x, some)
        for entry, tokens, values in zip(some, keys, x[some].to("cpu").chunks(), strict=True):
            mask = _mask(x, int(entry), tokens, keys=values.shape[-1])
            # of the keys that are meant alone: NaN of others is not theirs
            total += values.sum(-2, dtype=torch.float64)[..., mask].sum(-1)
    return total / queries


def _mask(
    x: RaggedTensor, entry: int, tokens: tuple[np.ndarray, np.ndarray], *, keys: int
) -> torch.Tensor:
    """Return which keys of an example are meant: bool[keys].

    Raises:
        QueryError: the table does not have the token of every key.
    """
    positions, meant = tokens
    known = positions < keys
    if int(known.sum()) < keys:
        raise QueryError(
            f"entry {entry} of {x.site} attends to {keys} tokens, of which {int(known.sum())} were "
            "stored: what the others are is not known. Capture with positions='all'; for keys by "
            "their place, x[:, :, :, 0] of x = cache[site] is the attention to the first."
        )
    mask = np.zeros(keys, dtype=np.bool_)
    mask[positions[known]] = meant[known]
    return torch.from_numpy(mask)
