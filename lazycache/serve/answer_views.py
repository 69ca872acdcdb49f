"""What the page of an answer shows: cells, and the chart that fits or was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lazycache.faces.html import Html
from lazycache.serve.answering import Answer
from lazycache.serve.cells import Cell, cells, values
from lazycache.serve.charts import FORMS, Chart, chosen, drawn
from lazycache.serve.limits import Limits
from lazycache.serve.rendering import link

NUMBERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"}
)
"""Names of types of numbers, without the U of those without a sign."""

TEXTS = frozenset({"VARCHAR", "BOOLEAN"})
"""Names of types whose values can be names of bars."""

NO_CHART = "none"
"""What is asked for in place of a form, by who wants none."""


_Column = TypeVar("_Column", int, int | None)


@dataclass(frozen=True, slots=True)
class AnswerView:
    """An answer as a page shows it."""

    columns: tuple[tuple[str, str, str], ...]
    """Of each column its name, its type and its kind: `number`, `text` or `other`."""
    rows: tuple[tuple[tuple[Cell, str | None], ...], ...]
    """Of each row its cells, each with the page that it leads to."""
    hidden: int
    """Columns that are not shown."""
    chart: Chart | None
    """What is drawn."""
    svg: Html
    """The drawing; empty where there is none."""


def view_of(answer: Answer, limits: Limits, wanted: Mapping[str, str]) -> AnswerView:
    """Return what a page shows of an answer.

    Args:
        answer: The answer.
        limits: How many columns and letters are shown.
        wanted: `chart`, `x` and `y` as a person chose them; what is missing or does not fit is
            chosen by the columns.
    """
    names = answer.columns[: limits.columns]
    types = answer.types[: limits.columns]
    kinds = [kind_of(kind) for kind in types]
    drawable = [_values(answer, at, kind) for at, kind in enumerate(kinds)]
    chart = _wanted(chosen(names, kinds, drawable), kinds, wanted)
    return AnswerView(
        columns=tuple(zip(names, types, kinds, strict=True)),
        rows=tuple(_rows(answer, names, limits)),
        hidden=len(answer.columns) - len(names),
        chart=chart,
        svg=drawn(chart, names, drawable) if chart else Html(""),
    )


def kind_of(sql_type: str) -> str:
    """Return what a column of a type is to a chart.

    Example:
        >>> kind_of("UBIGINT"), kind_of("DECIMAL(38,0)"), kind_of("FLOAT[4]"), kind_of("VARCHAR")
        ('number', 'number', 'other', 'text')
    """
    if sql_type.endswith("]"):
        return "other"
    name = sql_type.partition("(")[0]
    if name in NUMBERS or name.removeprefix("U") in NUMBERS:
        return "number"
    return "text" if name in TEXTS else "other"


def _values(answer: Answer, at: int, kind: str) -> Sequence[Any]:
    """Return the values of a column that may be drawn; of others nothing is made."""
    if kind == "other":
        return ()
    return [one for batch in answer.batches for one in values(batch.column(at))]


def _rows(answer: Answer, names: Sequence[str], limits: Limits) -> list[Any]:
    rows: list[Any] = []
    for batch in answer.batches:
        columns = [cells(batch.column(at), letters=limits.letters) for at in range(len(names))]
        rows += (
            tuple((cell, _leads_to(name, cell)) for name, cell in zip(names, row, strict=True))
            for row in zip(*columns, strict=True)
        )
    return rows


def _leads_to(name: str, cell: Cell) -> str | None:
    """Return the page about what a cell names: an example by its number."""
    if name == "example" and cell.kind == "number":
        return link("/example", example=cell.text)
    return None


def _wanted(fits: Chart | None, kinds: Sequence[str], wanted: Mapping[str, str]) -> Chart | None:
    """Return the chart that was asked for, where there is such a one."""
    asked = wanted.get("chart", "")
    numbers = [at for at, kind in enumerate(kinds) if kind == "number"]
    is_wanted = fits or any(wanted.get(name) for name in ("chart", "x", "y"))
    if asked == NO_CHART or not numbers or not is_wanted:
        return None
    fits = fits or Chart("bars", None, numbers[0])
    form = next((one for one in FORMS if one == asked), fits.form)
    named = [at for at, kind in enumerate(kinds) if kind == "text" and form == "bars"]
    up = _among(wanted.get("y"), numbers, fits.up)
    across = _among(wanted.get("x"), [*numbers, *named], fits.across)
    return Chart(form, across if across in {*numbers, *named} else None, up)


def _among(text: str | None, columns: Sequence[int], otherwise: _Column) -> int | _Column:
    """Return the one of some columns that a text is the number of."""
    return next((at for at in columns if str(at) == text), otherwise)
