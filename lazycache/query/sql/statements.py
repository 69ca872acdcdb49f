"""What may be run: one statement that reads."""

from __future__ import annotations

import re

import duckdb

from lazycache.errors import QueryError, ReadOnlyError

_EXPLAIN = re.compile(r"\s*explain\b(\s*\([^)]*\))?(\s+analyze\b)?", re.IGNORECASE)
_COMMENTS = re.compile(r"\s*(--[^\n]*\n|/\*.*?\*/)", re.DOTALL)
_READS = re.compile(r"\s*(\(|pivot|unpivot|select|with|from)\b|\s*\(", re.IGNORECASE)


def check_reads(query: str, cursor: duckdb.DuckDBPyConnection) -> None:
    """Refuse everything but a single query.

    Raises:
        QueryError: no statement, or several.
        ReadOnlyError: a statement that writes or changes settings.
        duckdb.Error: a syntax error.
    """
    statements = cursor.extract_statements(query)
    if len(statements) != 1:
        found = f"there are {len(statements)}" if statements else "the query is empty"
        raise QueryError(f"One SQL statement at a time: {found}.")
    kind = statements[0].type
    if kind == duckdb.StatementType.SELECT:
        return
    text = _without_comments(query)
    if kind == duckdb.StatementType.EXPLAIN:
        explained = _EXPLAIN.match(text)
        if explained is not None:
            check_reads(text[explained.end() :], cursor)
            return
    # PIVOT is several statements in one: it makes a temporary type of the values it finds
    if kind == duckdb.StatementType.MULTI and _READS.match(text):
        return
    raise ReadOnlyError(
        f"SQL on a dataset only reads: a {kind.name} statement cannot run. To keep an answer, take "
        "it out with .df(), .arrow() or .pl()."
    )


def _without_comments(query: str) -> str:
    while (comment := _COMMENTS.match(query)) is not None:
        query = query[comment.end() :]
    return query
