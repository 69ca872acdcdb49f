"""What the columns of a table are called in SQL, for ever. Pure.

SQL does not see case, so of two names that differ in case only, one gets a suffix: the one that
the log brought later. A query thus means the same in every later version of a dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazycache.catalog.computed import all_sites
from lazycache.catalog.index_rows import BASE_COLUMNS, index_columns, unused

if TYPE_CHECKING:
    from lazycache.catalog.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Names of the columns of one table."""

    columns: dict[str, str]
    """Column of the index to its name in SQL, in order of the log."""
    sites: dict[str, str]
    """Site to the name of its column, in natural order."""


def column_names(snapshot: Snapshot, *, table: str) -> ColumnNames:
    """Return the names in a table: columns and sites in order of their first declaration."""
    own = BASE_COLUMNS[table]
    in_index = index_columns(snapshot.columns(table), table=table)
    names: dict[str, str] = {name: name for name in own}
    sites: dict[str, str] = {}
    taken = set(own)
    specs = {name: spec for name, spec in all_sites(snapshot).items() if spec.table == table}
    # of one commit its columns come first
    files = snapshot.table_files(table)
    begun = [(file.base, 0, in_index[column]) for file in files for column in file.ref.columns]
    # a computed site is there with the array that it is computed with
    declared = [(version, 1, name.removesuffix(".weight")) for version, name in snapshot.declared()]
    for _, kind, name in sorted([*begun, *declared], key=lambda one: one[:2]):
        given = sites if kind else names
        if name not in given and (not kind or name in specs):
            given[name] = unused(name, taken)
            taken.add(given[name].lower())
    return ColumnNames(names, {name: sites[name] for name in specs if name in sites})
