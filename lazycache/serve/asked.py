"""What the address of a page asks for: texts, numbers and units of its query. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lazycache.errors import QueryError

MOST_DIGITS = 18
"""Digits of a number of an address: it fits 64 bits."""

_NUMBER = re.compile(rf"[0-9]{{1,{MOST_DIGITS}}}")


def text_of(query: Mapping[str, str], name: str) -> str | None:
    """Return what is asked for under a name; None where the field was left empty.

    Example:
        >>> text_of({"site": "mlp_act_3", "unit": ""}, "unit") is None
        True
    """
    return query.get(name) or None


def number_of(query: Mapping[str, str], name: str) -> int | None:
    """Return a whole number from 0, or None where the field was left empty.

    Raises:
        QueryError: it is no such number.

    Example:
        >>> number_of({"head": "3"}, "head"), number_of({}, "head")
        (3, None)
    """
    said = query.get(name, "").strip()
    if not said:
        return None
    if _NUMBER.fullmatch(said) is None:
        raise QueryError(f"{name}={said:.40}: it is a whole number, 0 at least.")
    return int(said)


def unit_of(query: Mapping[str, str]) -> tuple[int, ...]:
    """Return the unit that is asked for, an index for each dimension of a row; () where none is.

    Raises:
        QueryError: it is not numbers with commas between them.

    Example:
        >>> unit_of({"unit": "412"}), unit_of({"unit": "3, 17"}), unit_of({})
        ((412,), (3, 17), ())
    """
    said = query.get("unit", "").strip()
    parts = [part.strip() for part in said.split(",")] if said else []
    if any(_NUMBER.fullmatch(part) is None for part in parts):
        raise QueryError(
            f"unit={said:.40}: it is a number, 0 at least, or one for each dimension of a row with "
            "commas between them: 3,17."
        )
    return tuple(map(int, parts))


def layer_of(said: str) -> int | str:
    """Return the number of a layer, or the name of a site.

    Example:
        >>> layer_of("3"), layer_of("pattern_3")
        (3, 'pattern_3')
    """
    return int(said) if _NUMBER.fullmatch(said) else said


def spelled(unit: Sequence[int]) -> str:
    """Return a unit as `unit_of` reads it.

    Example:
        >>> spelled((3, 17)), spelled(())
        ('3,17', '')
    """
    return ",".join(map(str, unit))
