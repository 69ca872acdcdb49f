"""Several calls of one module in one forward pass: all rows of one site, call after call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.capture.device.staging import Staged
from lazycache.capture.sites.names import HookPoint
from lazycache.errors import CaptureError
from lazycache.types import CALLS_OF, INDEX_COLUMNS, SiteBlock, TableBlock

BASE_OF: Mapping[str, str] = {calls: table for table, calls in CALLS_OF.items()}
"""Table of calls to the table whose rows each call repeats."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What one call of a module gave to a site."""

    table: str
    """The table that has its rows, once per call."""
    values: torch.Tensor
    """As in `SiteBlock`; its contents are right when all of `staged` have arrived."""
    shape: tuple[int, ...] | None = None
    """As in `SiteBlock`."""
    widths: np.ndarray | None = None
    """As in `SiteBlock`."""
    lost: torch.Tensor | None = None
    """How many values the dtype could not hold: 0-d, on the CPU like `values`; None where none
    can be."""
    staged: tuple[Staged, ...] = ()
    """What is on its way to the host."""

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.values if self.widths is None else self.widths)

    def wait(self) -> None:
        """Return when all of it is on the host."""
        for staged in self.staged:
            staged.wait()


def join_calls(
    name: str, point: HookPoint, pieces: Sequence[Piece], *, before: str | None
) -> SiteBlock:
    """Make one block of all calls; of several they are rows of the table of calls.

    Args:
        name: Of the site.
        point: Where it is, and which calls are asked for.
        pieces: One per call, in order.
        before: The table in which earlier forward passes put the site.

    Cost: several calls are copied together once, on the host, which waits for them.

    Raises:
        CaptureError: several calls, and only one before; calls that differ.

    Example:
        >>> pieces = [Piece("tokens", torch.ones(2, 3))] * 2
        >>> block = join_calls("x:out", HookPoint("x", "out"), pieces, before=None)
        >>> block.table, block.values.shape
        ('calls', torch.Size([4, 3]))
    """
    first = pieces[0]
    if point.call != "*" and before not in BASE_OF:
        if len(pieces) == 1:
            return SiteBlock(first.table, first.values, first.shape, first.widths)
        if before is not None:
            raise CaptureError(
                f"{name}: the module was called {len(pieces)} times, but once in earlier forward "
                f"passes, so that its rows are in {before!r}. {_choice(point)}"
            )
    _check_alike(name, point, pieces)
    table = CALLS_OF[first.table]
    if len(pieces) == 1:
        return SiteBlock(table, first.values, first.shape, first.widths)
    for piece in pieces:
        piece.wait()
    values = torch.cat([piece.values for piece in pieces])
    widths = [piece.widths for piece in pieces if piece.widths is not None]
    return SiteBlock(table, values, first.shape, np.concatenate(widths) if widths else None)


def _check_alike(name: str, point: HookPoint, pieces: Sequence[Piece]) -> None:
    kinds = [_kind(piece) for piece in pieces]
    other = next((n for n, kind in enumerate(kinds) if kind != kinds[0]), None)
    if other is not None:
        raise CaptureError(
            f"{name}: the calls of the module differ: {_told(pieces[0])} in call 0, "
            f"{_told(pieces[other])} in call {other}. Choose one: {_at(point, 0)!r}."
        )


def _kind(piece: Piece) -> tuple[object, ...]:
    row = piece.shape if piece.shape is not None else piece.values.shape[1:]
    return piece.table, piece.values.dtype, tuple(row), piece.rows


def _told(piece: Piece) -> str:
    row = piece.shape if piece.shape is not None else tuple(piece.values.shape[1:])
    return f"{piece.rows} {piece.values.dtype} rows of shape {row} in {piece.table!r}"


def _choice(point: HookPoint) -> str:
    return f"Ask for all calls, {_at(point, '*')!r}, or for one, {_at(point, 0)!r}."


def _at(point: HookPoint, call: int | str) -> str:
    field = "" if point.field is None else f".{point.field}"
    index = "" if point.index is None else f"[{point.index}]"
    return f"{point.path}:{point.side}{field}{index}@{call}"


def call_tables(
    tables: Mapping[str, TableBlock], sites: Mapping[str, SiteBlock]
) -> dict[str, TableBlock]:
    """Return the tables of calls that sites have rows in, as long as the site with most calls.

    Example:
        >>> rows = TableBlock(2, {"example": np.array([7, 8])})
        >>> site = SiteBlock("example_calls", torch.ones(4, 3))
        >>> block = call_tables({"examples": rows}, {"x:out": site})["example_calls"]
        >>> block.columns["example"].tolist(), block.columns["call"].tolist()
        ([7, 8, 7, 8], [0, 0, 1, 1])
    """
    longest: dict[str, int] = {}
    for block in sites.values():
        if block.table in BASE_OF:
            longest[block.table] = max(longest.get(block.table, 0), block.rows)
    return {
        table: _repeated(tables[BASE_OF[table]], INDEX_COLUMNS[BASE_OF[table]], rows)
        for table, rows in longest.items()
    }


def _repeated(base: TableBlock, index: Sequence[str], rows: int) -> TableBlock:
    times = rows // base.rows if base.rows else 0
    columns = {name: np.tile(np.asarray(base.columns[name]), times) for name in index}
    columns["call"] = np.repeat(np.arange(times, dtype=np.int32), base.rows)
    return TableBlock(rows, columns)
