"""Tokens around a row, in its example, and what else the tables say of rows that were found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lazycache.cache.selecting.examples import ragged_arange
from lazycache.cache.selecting.plan import as_array
from lazycache.cache.tables.row_origins import Origin
from lazycache.errors import QueryError
from lazycache.query.token_pages import pages_of
from lazycache.types import DECODER_TOKENS, EXAMPLES, INDEX_COLUMNS, TOKENS

if TYPE_CHECKING:
    from lazycache.cache.selecting.examples import ExampleMap
    from lazycache.cache.tables.row_origins import Asked
    from lazycache.query.asked import Cache

POSITION = "position"
TOKEN = "token"  # noqa: S105  # no password


_SPACE = re.compile(r"\s")


def as_read(tokens: Sequence[str]) -> list[str]:
    """Return tokens that follow each other as they are read, one behind the other.

    Tokenizers that mark where a word goes on (`##ing`) keep no spaces: there, words get theirs.
    Tokens of other tokenizers have their spaces, and stay as they are.

    Example:
        >>> as_read(["the", "cat", "##s"]), as_read(["the", " cat", "s"])
        (['the', ' cat', 's'], ['the', ' cat', 's'])
    """
    if any(_SPACE.search(token) for token in tokens):
        return list(tokens)
    return list(map(_spaced, tokens, range(len(tokens))))


def _spaced(piece: str, place: int) -> str:
    """Return a word piece with the space before it, if it begins a word and there is one before."""
    return piece.removeprefix("##") if piece.startswith("##") else " " * (place > 0) + piece


@dataclass(frozen=True, slots=True)
class Context:
    """A token and those around it in its example, as texts.

    Example:
        >>> str(Context(("the", " cat"), " sat", (" on",)))
        'the cat [sat] on'
    """

    before: tuple[str, ...]
    """Tokens before it; fewer at the beginning of the example."""
    token: str
    """The token."""
    after: tuple[str, ...]
    """Tokens after it; fewer at the end of the example."""

    @property
    def spelled(self) -> tuple[str, str, str]:
        """The text before the token, the token, and the text after it, as they are read.

        Tokenizers that mark where a word goes on (`##ing`) keep no spaces: there, words get theirs.

        Example:
            >>> Context(("the", "cat", "##s"), "sat", ("on",)).spelled
            ('the cats ', 'sat', ' on')
        """
        before, token, after = self._parts()
        bare = token.lstrip(" ")
        return before + token[: len(token) - len(bare)], bare, after

    @property
    def sides(self) -> tuple[str, str]:
        """The text before the token and the text after it; the space before the token is its own.

        Example:
            >>> Context(("the", "cat", "##s"), "sat", ("on",)).sides
            ('the cats', ' on')
        """
        before, _, after = self._parts()
        return before, after

    def _parts(self) -> tuple[str, str, str]:
        parts = as_read((*self.before, self.token, *self.after))
        at = len(self.before)
        return "".join(parts[:at]), parts[at], "".join(parts[at + 1 :])

    def __str__(self) -> str:
        before, token, after = self.spelled
        return f"{before}[{token}]{after}"


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What the tables say of some rows, in their order."""

    rows: np.ndarray
    """int64[n]: rows of the tables of their datasets."""
    examples: list[int]
    """Ids of their examples."""
    positions: list[int | None]
    """Their positions; None in tables without positions."""
    tokens: list[str | None]
    """Their tokens; None where no text was stored."""
    contexts: list[Context | None]
    """The tokens around them; None where no text was stored, or where none was asked for."""

    @classmethod
    def nothing(cls, rows: np.ndarray) -> Surroundings:
        """Return that of rows of which nothing is known yet; the lists are to be filled."""
        count = len(rows)
        return cls(rows.copy(), [0] * count, [None] * count, [None] * count, [None] * count)


def check_context(n: object) -> None:
    """Refuse what is no number of tokens on each side.

    Raises:
        QueryError: it is none.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
        raise QueryError(f"context of {n!r} tokens: how many on each side, 0 at least.")


def context(cache: Cache, rows: Any, n: int = 10, *, table: str = TOKENS) -> list[Context | None]:
    """Return the tokens around rows; see `ActivationCache.context`."""
    check_context(n)
    if len(cache.datasets) != 1:
        raise QueryError(
            f"context() is about rows of one dataset, and this cache has {len(cache.datasets)}: "
            "ask one of them, lc.open(url).context(rows). Hits have their context."
        )
    (sites,) = cache.datasets
    numbers = np.atleast_1d(np.asarray(rows))
    _check_rows(sites, table, numbers)
    origin = Origin(sites, table, numbers.astype(np.int64), slice(None))
    return surroundings([origin], len(numbers), around=n).contexts


def _check_rows(sites: Asked, table: str, rows: np.ndarray) -> None:
    if table not in (TOKENS, DECODER_TOKENS):
        raise QueryError(
            f"{table!r} has no tokens: tables of tokens are {TOKENS}, {DECODER_TOKENS}."
        )
    if rows.ndim > 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise QueryError("Rows are whole numbers, as `row` in SQL: cache.context([5, 9]).")
    count = sites.snapshot.rows(table)
    bad = rows[(rows < 0) | (rows >= count)]
    if len(bad):
        raise QueryError(f"There is no row {int(bad[0])} in {table}, which has {count:,} rows.")


def surroundings(origins: Sequence[Origin], count: int, *, around: int | None) -> Surroundings:
    """Return what the tables say of `count` rows, which are in some datasets.

    Tokens around a row are those of the whole example as it was stored, also where rows were
    chosen; they never cross into another example.

    Args:
        origins: Which rows of which tables they are.
        count: How many.
        around: Tokens before and after each; None: no context.

    Cost: one query of the index for each dataset, none for what was near other rows that were asked
    about (see `Pages.columns`); no shard.

    Raises:
        StorageError: a dataset was closed.
    """
    found = Surroundings.nothing(np.zeros(count, dtype=np.int64))
    for one in origins:
        places = np.arange(count)[one.members]
        found.rows[places] = one.rows
        _fill(found, places.tolist(), one, around)
    return found


def _fill(found: Surroundings, places: Sequence[int], origin: Origin, around: int | None) -> None:
    sites: Asked = origin.tables.whole
    examples = sites.examples_of(origin.table)
    number, at = examples.places(origin.rows)
    for place, example in zip(places, examples.example[number].tolist(), strict=True):
        found.examples[place] = example
    shown = columns_there(sites, origin.table)
    if origin.table == EXAMPLES or not shown or not len(origin.rows):
        return
    lows, highs = _window(examples, number, at, around if TOKEN in shown else 0)
    wanted = as_array(examples.absolute(ragged_arange(lows, highs - lows)))
    columns = pages_of(sites, origin.table, shown).columns(sites, wanted)
    texts = columns.get(TOKEN, [])
    begins = np.cumsum(highs - lows) - (highs - lows)
    starts = examples.offsets[number]
    for place, begin, stop, low, own in zip(
        places,
        begins.tolist(),
        (begins + highs - lows).tolist(),
        (lows - starts).tolist(),
        at.tolist(),
        strict=True,
    ):
        mine = begin + own - low
        if POSITION in shown:
            found.positions[place] = columns[POSITION][mine]
        if TOKEN not in shown:
            continue
        found.tokens[place] = texts[mine]
        if around is not None and texts[mine] is not None:
            found.contexts[place] = _context(texts[begin:stop], mine - begin)


def _context(texts: Sequence[str | None], at: int) -> Context:
    # a token that was stored without its text is an empty one
    known = tuple(text or "" for text in texts)
    return Context(known[:at], known[at], known[at + 1 :])


def _window(
    examples: ExampleMap, number: np.ndarray, at: np.ndarray, around: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return first logical rows and stops of what is around rows, in their examples."""
    starts, lengths = examples.offsets[number], examples.lengths[number]
    reach = around or 0
    return starts + np.maximum(0, at - reach), starts + np.minimum(lengths, at + reach + 1)


def columns_there(sites: Asked, table: str) -> tuple[str, ...]:
    """Return which of position and token a table has."""
    stored = sites.snapshot.columns(table)
    own = (POSITION,) if POSITION in INDEX_COLUMNS[table] else ()
    return (*own, TOKEN) if TOKEN in stored else own
