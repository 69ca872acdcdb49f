"""Values of an answer as a table shows them: short, harmless, with their white space to be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
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
        >>> [cell.text for cell in cells(pa.array([{"a": 1, "b": [2, 3]}]), letters=9)]
        ['{a: 1, b: [2]}']
    """
    import pyarrow as pa

    if pa.types.is_nested(column.type):
        return [_nested(scalar) for scalar in column]
    return [cell(value, letters=letters) for value in values(column)]


def values(column: pa.Array) -> list[Any]:
    """Return the values of a column as Python has them; dates beyond its years are text.

    Example:
        >>> import pyarrow as pa
        >>> values(pa.array([2**31 - 1], pa.date32()))
        ['<value out of range: 2147483647>']
    """
    try:
        return [plain(value) for value in column.to_pylist()]
    except (OverflowError, ValueError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    import pyarrow as pa

    try:
        return plain(scalar.as_py())
    except (OverflowError, ValueError):
        if pa.types.is_struct(scalar.type):
            return {name: _value(one) for name, one in scalar.items()}
        if pa.types.is_nested(scalar.type):
            return [_value(one) for one in scalar.values]
        return scalar.cast(pa.string()).as_py()


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
    # a text may be long: no more of it is looked at than is shown
    seen = flowing(_edges(value[: letters + 1])) if value else "∅"
    if len(value) <= letters and len(seen) <= letters:
        return Cell(seen, "text")
    return Cell(f"{seen[: letters - 1]}…", "text", f"{len(value):,} letters")


def _edges(text: str) -> str:
    """Return a text whose first and last spaces can be seen: tokens begin with one."""
    inner = text.strip(" ")
    if not inner:
        return "·" * len(text)
    before = len(text) - len(text.lstrip(" "))
    return "·" * before + inner + "·" * (len(text) - before - len(inner))


def _nested(scalar: Any) -> Cell:
    """Return the cell of a list, a map or a struct: its first elements, and how many there are."""
    import pyarrow as pa

    if not scalar.is_valid:
        return Cell("NULL", "nothing")
    if pa.types.is_struct(scalar.type):
        named = islice(scalar.items(), SHOWN)
        said = ", ".join(f"{flowing(name)}: {_element(one)}" for name, one in named)
        return _some(said, len(scalar), "{}")
    if pa.types.is_map(scalar.type):
        pairs = [tuple(pair.values()) for pair in scalar.values[:SHOWN]]
        said = ", ".join(f"{_element(key)}: {_element(value)}" for key, value in pairs)
        return _some(said, len(scalar.values), "{}")
    if not hasattr(scalar, "values"):  # a union, which is one of its values
        return Cell(_element(scalar.value), "vector")
    said = ", ".join(_element(one) for one in scalar.values[:SHOWN])
    return _some(said, len(scalar.values), "[]")


def _some(said: str, count: int, around: str) -> Cell:
    whole = f"{around[0]}{said}{around[1]}"
    return Cell(f"{said}, … {count:,} in all" if count > SHOWN else whole, "vector")


def _element(scalar: Any) -> str:
    """Return an element, short; of what has elements itself only how many."""
    import pyarrow as pa

    if not scalar.is_valid:
        return "NULL"
    if pa.types.is_nested(scalar.type):
        within = scalar if pa.types.is_struct(scalar.type) else scalar.values
        return f"[{len(within):,}]"
    value = _value(scalar)
    return f"{value:.3g}" if isinstance(value, float) else cell(value, letters=24).text
