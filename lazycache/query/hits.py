"""Rows that a question found, best first: values, places, and the tokens around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from lazycache.cache.selecting.plan import as_array
from lazycache.faces.colours import background
from lazycache.faces.html import Html, card, table, text
from lazycache.faces.tokens import in_line
from lazycache.query.contexts import Context, Surroundings, check_context, surroundings

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from lazycache.cache.tensor.lazy_tensor import LazyTensor

SHOWN = 60
"""Letters of a context on each side of its token, in a table of text."""

WIDE = 160
"""The same in a notebook."""

LINES = 50
"""Hits that are shown of many."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One row that was found."""

    value: float | int
    """What it was found by: the value of a unit, a score, a similarity."""
    row: int
    """Its row in its table, as `row` in SQL; of a tensor in memory its place."""
    example: int | str
    """Id of its example; of a tensor in memory the index of its first dimension."""
    position: int | None
    """Its position; None of rows that are whole examples."""
    token: str | None
    """Its token; None where no text was stored."""
    context: Context | None
    """The tokens around it; None where no text was stored, or where none was asked for."""


class Hits(Sequence[Hit]):
    """Rows that were found, best first: `hits[0].token`, `hits.values`, `hits.df()`.

    In a notebook they are a table with each token in its context. Hits hold what they say: they
    read nothing, and stay when the cache is closed.

    Example:
        >>> from lazycache.samples import small_cache
        >>> hits = small_cache().top_k("resid_out_0", 1, k=2)
        >>> hits
        Hits of resid_out_0: 2
          value  row  example  position
             11    5        2         0
              9    4        1         2
        >>> hits[0].row, hits.values
        (5, tensor([11.,  9.]))
    """

    def __init__(self, site: str, values: torch.Tensor, found: Surroundings) -> None:
        self.site = site
        """What was asked about."""
        self.values = values
        """[k]: what they were found by, in its dtype."""
        self.rows: np.ndarray = found.rows
        """int64[k]: their rows in their table, as `row` in SQL."""
        self.examples: list[int] = found.examples
        """Ids of their examples."""
        self.positions: list[int | None] = found.positions
        """Their positions; None of rows that are whole examples."""
        self.tokens: list[str | None] = found.tokens
        """Their tokens; None where no text was stored."""
        self.contexts: list[Context | None] = found.contexts
        """The tokens around them; None where no text was stored, or where none was asked for."""
        self._numbers: list[float | int] = values.tolist()

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Hits: ...
    def __getitem__(self, index: int | slice) -> Hit | Hits:
        """Return a hit, or several as `Hits`."""
        if isinstance(index, slice):
            part = Surroundings(
                self.rows[index],
                self.examples[index],
                self.positions[index],
                self.tokens[index],
                self.contexts[index],
            )
            places = list(range(*index.indices(len(self))))
            return Hits(self.site, self.values[places], part)
        return Hit(
            self._numbers[index],
            int(self.rows[index]),
            self.examples[index],
            self.positions[index],
            self.tokens[index],
            self.contexts[index],
        )

    def __iter__(self) -> Iterator[Hit]:
        return (self[i] for i in range(len(self)))

    def arrow(self) -> pa.Table:
        """Return a table: value, row, example, position, token, before, after (as they read)."""
        import pyarrow as pa  # loaded when it is used: questions do without

        sides = [(None, None) if c is None else c.sides for c in self.contexts]
        return pa.table(
            {
                "value": pa.array(self._numbers),
                "row": pa.array(self.rows),
                "example": pa.array(self.examples, pa.int64()),
                "position": pa.array(self.positions, pa.int64()),
                "token": pa.array(self.tokens, pa.string()),
                "before": pa.array([before for before, _ in sides], pa.string()),
                "after": pa.array([after for _, after in sides], pa.string()),
            }
        )

    def df(self) -> Any:
        """Return `arrow()` as a pandas DataFrame (needs pandas)."""
        return self.arrow().to_pandas()

    def __repr__(self) -> str:
        names, *lines = self._cells()
        widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
        last = len(names) - 1 if names[-1] == "context" else len(names)
        said = [f"Hits of {self.site}: {len(self)}"]
        for line in (names, *lines):
            cells = [
                cell.rjust(width) if i < last else cell
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            said.append(f"  {'  '.join(cells)}".rstrip())
        if len(self) > LINES:
            said.append(f"  ... and {len(self) - LINES:,} more")
        return "\n".join(said)

    def _repr_html_(self) -> str:
        """Show a table in a notebook, each token marked in its context. All text is escaped."""
        rows = [
            (hit.value, str(hit.example), _text(hit.position), _marked(hit)) for hit in self[:LINES]
        ]
        columns = ("value", "example", "position", "context")
        shown = table(columns, rows, left=("context",), more=len(self) - LINES)
        return card(f"{self.site}: {len(self):,} rows", shown, kind="Hits")

    def _cells(self) -> list[list[str]]:
        """Return the names of the columns that say something, and a line for each hit."""
        shown: dict[str, list[str]] = {
            "value": [f"{value:.6g}" for value in self._numbers[:LINES]],
            "row": [str(row) for row in self.rows[:LINES].tolist()],
            "example": list(map(str, self.examples[:LINES])),
            "position": list(map(_text, self.positions[:LINES])),
            "token": [_plain(token) for token in self.tokens[:LINES]],
            "context": [_line(context) for context in self.contexts[:LINES]],
        }
        # the context has the token in it
        unsaid = [name for name, column in shown.items() if column and not any(column)]
        if "context" not in unsaid:
            unsaid.append("token")
        named = {name: column for name, column in shown.items() if name not in unsaid}
        return [list(named), *map(list, zip(*named.values(), strict=True))]


def hits_of(x: LazyTensor, values: torch.Tensor, rows: np.ndarray, *, context: int) -> Hits:
    """Return rows of a tensor as hits, in the order given.

    Args:
        x: What was asked about; what is selected of it does not matter.
        values: [k], what the rows were found by.
        rows: int64[k], rows of its source, as `x.lead.flat()` has them.
        context: Tokens on each side; 0 for none.

    Cost: one query of the index, or none (`Pages.columns`); no shard. Of a tensor that is of no
    dataset nothing.
    """
    check_context(context)
    numbers = np.asarray(rows, dtype=np.int64)
    return Hits(x.site, values, _around(x, numbers, context))


def _around(x: LazyTensor, rows: np.ndarray, context: int) -> Surroundings:
    origins = x.source.origins
    if origins is not None:
        return surroundings(origins(rows), len(rows), around=context or None)
    found = Surroundings.nothing(as_array(rows))
    examples, positions = x.source.examples().places(rows)
    found.examples[:] = examples.tolist()
    if x.lead_ndim > 1:
        found.positions[:] = positions.tolist()
    return found


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _plain(text: str | None) -> str:
    """Return text in one line: what is no letter as Python writes it."""
    return "" if text is None else repr(text)[1:-1]


def _line(context: Context | None) -> str:
    if context is None:
        return ""
    before, token, after = map(_plain, context.spelled)
    return f"{before[-SHOWN:]}[{token}]{after[:SHOWN]}"


def _marked(hit: Hit) -> Html:
    spelled = ("", hit.token or "", "") if hit.context is None else hit.context.spelled
    if hit.context is None and hit.token is None:
        return Html()
    before, token, after = map(in_line, spelled)
    mark = f'<mark style="{_MARK}">{text(token or "∅")}</mark>'
    return Html(f'<span style="{_KEPT}">{text(before[-WIDE:])}{mark}{text(after[:WIDE])}</span>')


# the colour of the page, so that the mark is readable on dark ones too; spaces as they are
_MARK = f"color:inherit;background:{background(5)};border-radius:2px"
_KEPT = "white-space:pre-wrap;overflow-wrap:anywhere"
