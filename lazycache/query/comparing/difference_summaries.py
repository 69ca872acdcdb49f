"""How much rows change, in one pass over both sides: overall, by unit, and by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from lazycache.cache.aggregates.reduce import no_rows, tiles
from lazycache.cache.aggregates.row_stream import RowStream, by_rows, row_parts
from lazycache.cache.aggregates.statistics import Statistics, folded, known_of_matrix, of_known
from lazycache.cache.reading.known import Known
from lazycache.cache.selecting.plan import Rows, as_array
from lazycache.cache.tables.groups import encoded, numbered
from lazycache.cache.tables.row_columns import table_of
from lazycache.cache.tables.row_origins import asked
from lazycache.faces.html import card, facts, table
from lazycache.one_thread import one_thread

if TYPE_CHECKING:
    import pyarrow as pa

    from lazycache.cache.tensor.lazy_tensor import LazyTensor

_SUMS = 6
"""Numbers that are summed over rows: see `_numbers`."""


@dataclass(frozen=True, eq=False)
class DifferenceSummary:
    """How much rows change: numbers over all rows, of each unit, and of each group.

    Rows in which a value is not finite are counted, and in no other number of rows; of units,
    `Statistics` leaves out values that are not finite.
    """

    rows: int
    """How many rows."""
    nonfinite: int
    """Rows in which a value of either side is NaN or infinite."""
    mean_norm: float
    """Mean of the Euclidean norms of the changes of rows."""
    relative_norm: float
    """Norm of the whole change by that of the whole first side (Frobenius)."""
    mean_cosine: float
    """Mean of the cosines between the two sides of a row; rows that are zero have none."""
    units: Statistics
    """Of the change, unit by unit: mean, std, min, max and counts."""
    groups: pa.Table | None
    """The numbers of rows for each group: a table with a row per group; None without `by`."""

    def __repr__(self) -> str:
        lines = [
            f"DifferenceSummary({self.rows:,} rows, {self.nonfinite:,} of them not finite)",
            f"  mean norm     {self.mean_norm:.6g}",
            f"  relative norm {self.relative_norm:.6g}",
            f"  mean cosine   {self.mean_cosine:.6g}",
        ]
        if self.groups is not None:
            lines.append(f"  {self.groups.num_rows:,} groups by {self.groups.column_names[0]}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the numbers in a notebook, and those of each group. All text is escaped."""
        said = facts([(name.replace("_", " "), getattr(self, name)) for name in NAMES])
        shown = ""
        if self.groups is not None:
            columns = self.groups.slice(0, LINES).to_pydict().values()
            rows = [[str(row[0]), *row[1:]] for row in zip(*columns, strict=True)]
            names = self.groups.column_names
            shown = table(names, rows, left=names[:1], more=self.groups.num_rows - LINES)
        return card("", said, shown, kind="DifferenceSummary")


NAMES = ("rows", "nonfinite", "mean_norm", "relative_norm", "mean_cosine")

LINES = 40
"""Groups that are shown in a notebook."""


@dataclass(frozen=True, slots=True, eq=False)
class PairGroups:
    """The groups of rows."""

    keys: tuple[Any, ...]
    """Their values, in order."""
    codes: torch.Tensor
    """int64[rows]: the group of each row, in the order of `rows`."""
    rows: Rows
    """The rows of the tensor, in storage order."""
    name: str
    """What they are by."""


def grouped(x: LazyTensor, by: str) -> PairGroups:
    """Return the groups of all rows. Cost: asks the index; 16 bytes for each row."""
    rows = x.rows.lead.flat()
    origins = asked(x.source, as_array(rows), shown=lambda: repr(x))
    found = table_of(origins, [by], count=len(rows), encode=encoded)
    keys, codes = numbered(found.column(0))
    return PairGroups(keys, torch.from_numpy(codes), rows, by)


def _sides(pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both sides of [n, 2, *row] in float64: [n, units]."""
    wide = pairs.reshape(len(pairs), 2, pairs[0, 0].numel() if len(pairs) else 0).double()
    return wide[:, 0], wide[:, 1]


def norms_of(pairs: torch.Tensor) -> torch.Tensor:
    """Return the norms of the changes of [n, 2, *row]: float64[n]."""
    return _in_tiles(_norms, pairs)


def cosines_of(pairs: torch.Tensor) -> torch.Tensor:
    """Return the cosines between both sides of [n, 2, *row]: float64[n]."""
    return _in_tiles(_cosines, pairs)


def _in_tiles(work: Callable[..., torch.Tensor], pairs: torch.Tensor) -> torch.Tensor:
    """Return [n] or [n, k] of pairs, worked out in pieces that stay in the processor's cache."""
    found = [work(*_sides(tile)) for tile in tiles(pairs)]
    return torch.cat(found) if found else work(*_sides(pairs))


def _norms(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(after - before, dim=1)
    return norms


def _cosines(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    lengths = [torch.linalg.vector_norm(side, dim=1) for side in (before, after)]
    cosines: torch.Tensor = (before * after).sum(1) / lengths[0] / lengths[1]
    return cosines


def _numbers(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return what is summed of each row: [n, 6].

    Whether it is finite, norm and squared norm of the change, squared norm before, whether there is
    a cosine, and the cosine; zeros of rows that are not finite.
    """
    norms, cosines = _norms(before, after), _cosines(before, after)
    finite = norms.isfinite()
    there = finite & ~cosines.isnan()
    columns = [
        finite.double(),
        norms.where(finite, 0),
        norms.square().where(finite, 0),
        before.square().sum(1).where(finite, 0),
        there.double(),
        cosines.where(there, 0),
    ]
    return torch.stack(columns, 1)


def summary_of(pair: LazyTensor, groups: PairGroups | None) -> DifferenceSummary:
    """Return the numbers of rows of pairs [..., 2, *row], in one pass.

    Raises:
        SelectionError: there are no rows.
    """
    stream = by_rows(pair)
    if not stream.rows:
        raise no_rows("diff")
    total = torch.zeros(1 if groups is None else len(groups.keys), _SUMS, dtype=torch.float64)
    units: list[Known | None] = []
    done = 0
    for numbers, known in stream.map(partial(_of_block, stream), _parts(stream, groups)):
        codes = _codes(groups, done, len(numbers))
        with one_thread():  # torch's threads make this ten times as slow
            total.index_add_(0, codes, numbers)
        units = [folded([*units, known])]
        done += len(numbers)
    found = units[0]
    assert found is not None, "there are rows"
    counts = torch.tensor([stream.rows]) if groups is None else torch.bincount(groups.codes)
    one = _named(total.sum(0, keepdim=True), torch.tensor([stream.rows]))
    table = None if groups is None else _table(groups, _named(total, counts))
    statistics = of_known(found, shape=pair.row_shape[1:], device=pair.device)
    return DifferenceSummary(**{k: v[0] for k, v in one.items()}, units=statistics, groups=table)


def _parts(stream: RowStream, groups: PairGroups | None) -> Iterator[Rows]:
    return row_parts(stream.x) if groups is None else iter([groups.rows])


def _codes(groups: PairGroups | None, start: int, count: int) -> torch.Tensor:
    if groups is None:
        return torch.zeros(count, dtype=torch.int64)
    return groups.codes[start : start + count]


def _of_block(stream: RowStream, matrix: torch.Tensor) -> tuple[torch.Tensor, Known | None]:
    pairs = matrix.reshape(len(matrix), 2, stream.units // 2).cpu()
    return _in_tiles(_numbers, pairs), known_of_matrix(pairs[:, 1] - pairs[:, 0])


def _named(sums: torch.Tensor, rows: torch.Tensor) -> dict[str, list[Any]]:
    """Return the numbers of sums [groups, 6] by name; nan where there is nothing to divide by."""
    finite, norm, change, before, cosines, cosine = sums.T
    found = {
        "rows": rows,
        "nonfinite": rows - finite.long(),
        "mean_norm": norm / finite,
        "relative_norm": (change / before).sqrt(),
        "mean_cosine": cosine / cosines,
    }
    return {name: numbers.tolist() for name, numbers in found.items()}


def _table(groups: PairGroups, numbers: dict[str, list[Any]]) -> pa.Table:
    import pyarrow as pa  # loaded when it is used: questions do without

    # the column of groups has the name of what they are by; a second one of a name gets another
    name = groups.name if groups.name not in numbers else "group"
    return pa.table({name: pa.array(list(groups.keys)), **numbers})
