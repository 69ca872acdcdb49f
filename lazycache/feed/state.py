"""Where a loader stands, as plain numbers and texts, and whether that fits another loader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazycache.errors import SelectionError

_WHERE = ("epoch", "batches")
_TOLD = "versions"
"""Begins the names of what is told and not compared: a later version has the same rows, too."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a loader is: what was handed out, not what was read ahead."""

    epoch: int
    """The epoch."""
    batches: int
    """Batches of it that were handed out."""


def begun(epoch: object) -> Standing:
    """Return the beginning of an epoch.

    Raises:
        SelectionError: it is no number from 0 on.
    """
    if not _is_count(epoch):
        raise SelectionError(f"an epoch is a whole number from 0 on, not {epoch!r}.")
    return Standing(int(epoch), 0)  # type: ignore[call-overload]  # it is a count


def written(standing: Standing, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a standing with what was asked for, as JSON holds it.

    Example:
        >>> written(Standing(1, 20), {"seed": 0})
        {'epoch': 1, 'batches': 20, 'asked': {'seed': 0}}
    """
    return {"epoch": standing.epoch, "batches": standing.batches, "asked": dict(asked)}


def read(state: Mapping[str, Any], asked: Mapping[str, Any], *, most: int) -> Standing:
    """Return the standing of a state that fits what is asked for; `most` batches an epoch.

    Raises:
        SelectionError: it is no state, or one of a loader that hands out other batches: names what
            differs.

    Example:
        >>> read({"epoch": 1, "batches": 2, "asked": {"seed": 0}}, {"seed": 0}, most=9)
        Standing(epoch=1, batches=2)
    """
    theirs = state.get("asked") if isinstance(state, Mapping) else None
    if not isinstance(theirs, Mapping) or not all(_is_count(state.get(key)) for key in _WHERE):
        raise SelectionError(
            f"load_state_dict takes what state_dict() of a loader returned, not {state!r:.200}."
        )
    names = [*asked, *(name for name in theirs if name not in asked)]
    different = [
        f"{name} is {theirs.get(name)!r} in the state and {asked.get(name)!r} here"
        for name in names
        if theirs.get(name) != asked.get(name) and not name.startswith(_TOLD)
    ]
    if different:
        raise SelectionError(
            f"this state is of a loader that hands out other batches: {'; '.join(different)}. Ask "
            f"for the same again{_versions(theirs, asked)}; or begin anew, without the state."
        )
    if state["batches"] > most:
        raise SelectionError(
            f"this state is {state['batches']:,} batches into an epoch; here it has {most:,}."
        )
    return Standing(state["epoch"], state["batches"])


def _versions(theirs: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return which version to open, where the state is of another one."""
    found = [
        one
        for name, told in theirs.items()
        if name.startswith(_TOLD) and told != asked.get(name)
        for one in told
    ]
    there = f", of what it was taken of: {', '.join(dict.fromkeys(found))}"
    return f"{there} (lc.open(url, snapshot=...))" if found else ""


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
