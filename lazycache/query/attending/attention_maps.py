"""What the tokens of one example attend to: the pattern of a layer with its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.cache.names.head_names import parse
from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.ragged_selection import ExampleGroups
from lazycache.cache.tables.row_origins import asked
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import QueryError
from lazycache.faces.heat_maps import heat_map
from lazycache.faces.html import card, facts
from lazycache.query.attending.pattern_sites import Layer, keys_table, pattern_of

if TYPE_CHECKING:
    import pyarrow as pa

    from lazycache.cache.tables.row_origins import Asked
    from lazycache.query.asked import Cache

SHOWN_HEADS, SHOWN_QUERIES = 6, 20
"""What a text shows."""

DRAWN_HEADS = 64
"""Heads that are drawn in a notebook."""

SIDE, ONE_SIDE = 150, 480
"""Pixels of a map without labels: of several heads, and of one."""

TOKEN = "token"  # noqa: S105  # no password


class AttentionMap:
    """Attention probabilities of one example, with its tokens: a picture in a notebook.

    It holds what it says: it reads nothing, and stays when the cache is closed.

    Example:
        >>> from lazycache.samples import pattern_cache
        >>> pattern_cache().attention(1, 0, head=0)
        AttentionMap(pattern_0, example 1, head 0: 3 queries, 3 keys)
          query  attends most to
              0  0 1.00
              1  0 0.50
              2  0 0.33
    """

    def __init__(
        self,
        values: torch.Tensor,
        *,
        site: str,
        example: int,
        head: int | None,
        keys: list[str | None],
        queries: list[str | None],
        positions: np.ndarray,
    ) -> None:
        self.values = values
        """[heads, query, key], or of one head [query, key], in the stored dtype."""
        self.site = site
        """Name of the site."""
        self.example = example
        """Id of the example."""
        self.head = head
        """The head; None: all."""
        self.tokens = tuple(keys)
        """The tokens of the keys; key k has position k. None where no text is stored of one."""
        self.queries = tuple(queries)
        """The tokens of the queries; those of `tokens`, if all were captured."""
        self.positions = positions
        """int64[query]: positions of the queries."""

    def arrow(self) -> pa.Table:
        """Return a table, a row for each number: head, query, key, their tokens, value.

        `query` and `key` are positions. Of a single head, `head` is its number.
        """
        import pyarrow as pa  # loaded when it is used: questions do without

        heads, queries, keys = self._all.shape
        head, query, key = (part.reshape(-1) for part in np.indices((heads, queries, keys)))
        texts = (pa.array(self.queries, pa.string()), pa.array(self.tokens, pa.string()))
        return pa.table(
            {
                "head": pa.array(head + (self.head or 0)),
                "query": pa.array(self.positions[query]),
                "key": pa.array(key),
                "query_token": texts[0].take(pa.array(query)),
                "key_token": texts[1].take(pa.array(key)),
                "value": pa.array(self._all.reshape(-1)),
            }
        )

    def df(self) -> Any:
        """Return `arrow()` as a pandas DataFrame (needs pandas)."""
        return self.arrow().to_pandas()

    def __repr__(self) -> str:
        heads, queries, keys = self._all.shape
        of = f"{heads} heads: " if self.head is None else f"head {self.head}: "
        said = f"AttentionMap({self.site}, example {self.example}, {of}"
        return "\n".join([f"{said}{queries} queries, {keys} keys)", *self._lines()])

    def _repr_html_(self) -> str:
        """Draw a map for each head, without scripts; all text is escaped.

        One head has its tokens beside it, and numbers on hover; of several the maps are small.
        """
        first, one = self.head or 0, len(self._all) == 1
        drawn = [
            heat_map(
                values,
                queries=self._labels(self.queries, self.positions.tolist()),
                keys=self._labels(self.tokens, list(range(len(self.tokens)))),
                title=f"head {first + i}",
                labels=one,
                hover=one,
                side=ONE_SIDE if one else SIDE,
            )
            for i, values in enumerate(self._all[:DRAWN_HEADS])
        ]
        left = len(self._all) - len(drawn)
        more = facts([("... and more heads", left)]) if left > 0 else ""
        title = f"{self.site}, example {self.example}"
        said = facts([("queries", len(self.queries)), ("keys", len(self.tokens))])
        return card(title, said, " ".join(drawn), more, kind="AttentionMap")

    @property
    def _all(self) -> np.ndarray:
        """[heads, query, key] as numbers that numpy has."""
        wide = self.values.detach().cpu().to(torch.float32)
        found: np.ndarray = (wide if wide.ndim == 3 else wide[None]).numpy()  # noqa: PLR2004
        return found

    def _labels(self, tokens: tuple[str | None, ...], positions: list[int]) -> list[str]:
        return [str(p) if t is None else t for t, p in zip(tokens, positions, strict=True)]

    def _lines(self) -> Iterator[str]:
        """Say for each query, in each head, the key that it attends to most."""
        values = self._all
        if not values.size:
            return
        keys = self._labels(self.tokens, list(range(values.shape[2])))
        # NaN is no maximum
        best = np.where(np.isnan(values), -1, values).argmax(2)
        cells = [
            [self._query(i), *(f"{keys[k]!s} {values[h, i, k]:.2f}" for h, k in _first(best[:, i]))]
            for i in range(min(values.shape[1], SHOWN_QUERIES))
        ]
        names = ["attends most to"] if len(values) == 1 else self._head_names(len(values))
        lines = [["query", *names], *(list(map(_plain, line)) for line in cells)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            first, *rest = (cell.ljust(w) for cell, w in zip(line, widths, strict=True))
            yield f"  {'  '.join([first.strip().rjust(widths[0]), *rest])}".rstrip()
        if values.shape[1] > SHOWN_QUERIES:
            yield f"  ... and {values.shape[1] - SHOWN_QUERIES:,} more queries"

    def _query(self, place: int) -> str:
        token, position = self.queries[place], int(self.positions[place])
        return str(position) if token is None else f"{position} {token}"

    def _head_names(self, heads: int) -> list[str]:
        return [f"head {i}" for i in range(min(heads, SHOWN_HEADS))]


def attention(cache: Cache, example: int, layer: Layer, head: int | None = None) -> AttentionMap:
    """Return what the tokens of an example attend to; see `ActivationCache.attention`."""
    x = pattern_of(cache, layer)
    chosen = x if head is None else head_of(cache, x, head)
    named = parse(layer) if isinstance(layer, str) else None
    one = chosen[entry_of(x, example)]
    values = one.load()
    keys, queries, positions = _tokens(one, values.shape[-1])
    return AttentionMap(
        values,
        site=x.site,
        example=int(example),
        head=named.head if head is None and named is not None else head,
        keys=keys,
        queries=queries,
        positions=positions,
    )


def entry_of(x: RaggedTensor, example: int) -> int:
    """Return the place of an example of which there are rows, by its id.

    Raises:
        QueryError: no such example, several, or one without rows.
    """
    groups, numbers = x.selection.groups, x.selection.numbers
    if not isinstance(groups, ExampleGroups):
        raise QueryError(f"{x!r} are rows one by one: ask about examples, cache['pattern_0'].")
    ids = groups.map.example[numbers]
    check_id(example)
    entries = np.flatnonzero(ids == example)
    if not len(entries):
        there = f"from {ids.min()} to {ids.max()}" if len(ids) else "none"
        raise QueryError(
            f"there is no example {example} in {x!r}. Ids, column `example` in SQL, are {there}."
        )
    if len(entries) > 1:
        raise QueryError(
            f"{len(entries)} runs or datasets have an example {example}: choose a run, "
            """cache.where("run = 'main'").attention(...), or open one dataset."""
        )
    if not x.lengths[entries[0]]:
        raise QueryError(f"{x.site} has no rows of example {example}: none of it was captured.")
    return int(entries[0])


def check_id(example: object) -> None:
    """Refuse what is no id of an example.

    Raises:
        QueryError: it is no whole number.
    """
    if isinstance(example, bool) or not isinstance(example, int | np.integer):
        raise QueryError(f"an example is asked for by its id, a number, not {example!r:.60}.")


def head_of(cache: Cache, x: RaggedTensor, head: int) -> RaggedTensor:
    """Return one head, by its number in the model, also where only some heads were stored.

    Raises:
        QueryError: no number from 0, or `x` is of one head.
        SiteNotFoundError: there is no such head, or it was not stored.
    """
    if x.selection.removed[1]:
        raise QueryError(f"{x!r} is of one head: leave head= away.")
    if isinstance(head, bool) or not isinstance(head, int | np.integer) or head < 0:
        raise QueryError(f"head {head!r} of {x.site}: heads are numbers from 0.")
    name = re.sub(r"_([0-9]+)$", rf"_L\1H{head}", x.site)
    return x[:, pattern_of(cache, name).selection.heads]


def _tokens(x: RaggedTensor, keys: int) -> tuple[list[str | None], list[str | None], np.ndarray]:
    """Return the tokens of keys and queries of an example, and positions of the queries."""
    rows = x.selection.rows
    origin = next(one for one in asked(x.source, rows, shown=x.__repr__) if len(one.rows))
    tables, home = origin.tables.whole, origin.table
    at, queries = _texts(tables, home, origin.rows)
    table = keys_table(x)
    at_keys, texts = at, queries
    if table != home or len(rows) < keys:
        at_keys, texts = _texts(tables, table, _rows_of(tables, table, home, int(origin.rows[0])))
    shown = dict(zip(at_keys.tolist(), texts, strict=True))
    return [shown.get(key) for key in range(keys)], queries, at


def _rows_of(tables: Asked, table: str, home: str, row: int) -> np.ndarray:
    """Return all rows that a table has of the example of a row of `home`."""
    known, examples = tables.examples_of(home), tables.examples_of(table)
    number, _ = known.places(np.array([row]))
    same = (examples.example == known.example[number]) & (examples.run == known.run[number])
    place = np.flatnonzero(same)
    logical = ragged_arange(examples.offsets[place], examples.lengths[place])
    return as_array(examples.absolute(logical))


def _texts(tables: Asked, table: str, rows: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
    """Return positions and tokens of rows, in their order; tokens None where there is no text."""
    text = TOKEN if TOKEN in tables.snapshot.columns(table) else "NULL"
    query = (
        f"SELECT row, position, {text} AS token FROM {table} "  # noqa: S608  # our own names
        "WHERE row IN (SELECT unnest(?::BIGINT[])) ORDER BY row"
    )
    with closing(tables.sql(query, [rows])) as result:
        found = result.arrow()
    at = np.searchsorted(found.column("row").to_numpy(), rows)
    positions = found.column("position").to_numpy().astype(np.int64)[at]
    texts: list[Any] = found.column("token").to_pylist()
    return positions, [texts[i] for i in at.tolist()]


def _first(best: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the heads that are shown, each with its key."""
    return enumerate(best[:SHOWN_HEADS].tolist())


def _plain(text: str) -> str:
    """Return text in one line: what is no letter as Python writes it."""
    return repr(text)[1:-1]
