"""Values of an answer as a table shows them: short, harmless, with their white space to be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from lazycache.faces.html import number
from lazycache.faces.tokens import flowing

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 4
"""Elements of a vector that are shown."""

Kind = Literal["number", "text", "vector", "nothing"]
"""What is in a cell; a vector stays in one line."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value in a table."""

    text: str
    """What is shown of it."""
    kind: Kind
    """Numbers stand at the right."""
    whole: str | None = None
    """More of a text that was cut; None: all of it is shown."""


def cells(column: pa.Array, *, letters: int) -> list[Cell]:
    """Return the cells of a column; of a vector only what is shown becomes Python's.

    Example:
        >>> import pyarrow as pa
        >>> [cell.text for cell in cells(pa.array([[0.5, 1, 2, 3, 4], None]), letters=9)]
        ['0.5, 1, 2, 3, … 5 in all', 'NULL']
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_vector(value) for value in column]
    return [cell(plain(value), letters=letters) for value in column.to_pylist()]


def plain(value: Any) -> Any:
    """Return integers beyond 64 bits, such as every sum of integers, as such: not as decimals."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def cell(value: Any, *, letters: int) -> Cell:
    r"""Return the cell of a value.

    Example:
        >>> cell(" a\n", letters=9).text, cell(20030, letters=9).text, cell("abcd", letters=3).text
        ('·a⏎\n', '20030', 'ab…')
    """
    if value is None:
        return Cell("NULL", "nothing")
    if isinstance(value, bool):
        return Cell("true" if value else "false", "text")
    if isinstance(value, int):
        return Cell(str(value), "number")  # a number of a row is looked up, not read
    if isinstance(value, float):
        said = number(value)
        exact = not math.isfinite(value) or float(said.replace(",", "")) == value
        return Cell(said, "number", None if exact else repr(value))
    if isinstance(value, bytes):
        return Cell(f"{len(value):,} bytes", "text")
    return _text(value if isinstance(value, str) else str(value), letters)


def _text(value: str, letters: int) -> Cell:
    seen = flowing(_edges(value)) if value else "∅"
    if len(seen) <= letters:
        return Cell(seen, "text")
    return Cell(f"{seen[: letters - 1]}…", "text", f"{len(value):,} letters")


def _edges(text: str) -> str:
    """Return a text whose first and last spaces can be seen: tokens begin with one."""
    inner = text.strip(" ")
    if not inner:
        return "·" * len(text)
    before = len(text) - len(text.lstrip(" "))
    return "·" * before + inner + "·" * (len(text) - before - len(inner))


def _vector(value: Any) -> Cell:
    if not value.is_valid:
        return Cell("NULL", "nothing")
    count = len(value.values)
    said = ", ".join(_element(one) for one in value.values.slice(0, SHOWN).to_pylist())
    return Cell(f"{said}, … {count:,} in all" if count > SHOWN else f"[{said}]", "vector")


def _element(value: Any) -> str:
    """Return an element, short; of lists in lists only how long it is."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple | dict):
        return f"[{len(value):,}]"
    return cell(plain(value), letters=24).text
