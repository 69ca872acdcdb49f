"""The first rows and columns of a query, of which the others are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazycache.query.sql.result_faces import LINES, WIDEST

if TYPE_CHECKING:
    import duckdb


def beginning(
    relation: duckdb.DuckDBPyRelation, rows: int | None, columns: int | None
) -> duckdb.DuckDBPyRelation:
    """Return so many rows and columns of a relation, the first ones; None: all of them."""
    some = relation if rows is None else relation.limit(rows)
    if columns is not None and len(relation.columns) > columns:
        # by place: names may be the same
        some = some.project(", ".join(f"#{i}" for i in range(1, columns + 1)))
    return some


def shown_first(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Return what a notebook shows of a query, and one row more if there are more; runs it."""
    return beginning(relation, LINES + 1, WIDEST).materialize()
