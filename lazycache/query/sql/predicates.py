"""Cheap predicates before lazy ones, whatever DuckDB's optimizer thinks of their cost. Pure.

DuckDB puts simple comparisons first but takes a lazy column for as cheap as arithmetic, may swap
predicates while it runs, and moves them below joins. A CASE is evaluated in its order, so

    WHERE cheap AND lazy    becomes    WHERE cheap AND CASE WHEN cheap THEN lazy ELSE false END

which keeps the same rows and never reads a shard for a row that `cheap` removes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from typing import Any

from lazycache.query.sql.scope import Node

_FALSE: Node = {
    "class": "CONSTANT",
    "type": "VALUE_CONSTANT",
    "alias": "",
    "literal": {"kind": "BOOLEAN", "text": "false"},
}
_NULL: Node = {
    "class": "CONSTANT",
    "type": "VALUE_CONSTANT",
    "alias": "",
    "literal": {"kind": "NULL_LITERAL", "text": ""},
}


VOLATILE = frozenset(
    {
        *("random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "nextval", "currval"),
        *("setval", "error", "sleep_ms", "stats", "vector_type", "write_log", "current_query"),
        *("current_query_id", "current_connection_id", "current_transaction_id"),
    }
)
"""DuckDB's functions that may answer differently the second time, or do something."""


def lazy_test(*, columns: Collection[str], functions: Collection[str]) -> Callable[[Node], bool]:
    """Return a test whether an expression reads a shard: by lower-case column or function name.

    A column of that name from elsewhere counts too: that costs an order, never a row.
    """
    lazy_columns, lazy_functions = frozenset(columns), frozenset(functions)

    def is_lazy(expression: Node) -> bool:
        return any(
            any(name.lower() in lazy_columns for name in node.get("column_names", ()))
            or node.get("function_name", "").lower() in lazy_functions
            for node in nodes(expression)
        )

    return is_lazy


def nodes(value: Any) -> Iterator[Node]:
    """Yield every node below a value, itself included."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def cheap_first(where: Node, *, is_lazy: Callable[[Node], bool]) -> Node:
    """Return a WHERE clause that keeps the same rows and evaluates lazy predicates last."""
    cheap, lazy = parted(where, is_lazy=is_lazy)
    if not lazy or not cheap:
        return where
    guarded = case(when=both(cheap), then=both(lazy), otherwise=_FALSE)
    # also outside of the CASE, where DuckDB may use them to skip blocks and to order joins
    plain = [conjunct for conjunct in cheap if repeatable(conjunct)]
    return both([*deepcopy(plain), guarded])


def parted(where: Node, *, is_lazy: Callable[[Node], bool]) -> tuple[list[Node], list[Node]]:
    """Return what AND joins in a WHERE clause: the cheap predicates, and the lazy ones."""
    conjuncts = list(_conjuncts(where))
    lazy = [conjunct for conjunct in conjuncts if is_lazy(conjunct)]
    return [conjunct for conjunct in conjuncts if not is_lazy(conjunct)], lazy


def filter_first(call: Node, *, is_lazy: Callable[[Node], bool]) -> bool:
    """Guard the lazy arguments of `aggregate(...) FILTER (WHERE cheap)` in place; say if any.

    DuckDB computes the arguments of all rows before it filters.
    """
    condition = call.get("filter")
    if not condition or is_lazy(condition) or not repeatable(condition):
        return False
    guarded = [argument for argument in call["arguments"] if is_lazy(argument["expression"])]
    for argument in guarded:
        argument["expression"] = case(
            when=deepcopy(condition), then=argument["expression"], otherwise=_NULL
        )
    return bool(guarded)


def repeatable(expression: Node) -> bool:
    """Say whether an expression may stand twice: no subquery, nothing random."""
    subquery = any(node.get("class") == "SUBQUERY" for node in nodes(expression))
    return not subquery and not draws(expression)


def draws(value: Any) -> bool:
    """Say whether anything below a value may answer differently the second time."""
    return any(node.get("function_name", "").lower() in VOLATILE for node in nodes(value))


def case(*, when: Node, then: Node, otherwise: Node) -> Node:
    """Return `CASE WHEN when THEN then ELSE otherwise END`."""
    return {
        "class": "CASE",
        "type": "CASE_EXPR",
        "alias": "",
        "case_checks": [{"when_expr": when, "then_expr": then}],
        "else_expr": deepcopy(otherwise),
    }


def _conjuncts(expression: Node) -> Iterator[Node]:
    if expression["type"] == "CONJUNCTION_AND":
        for child in expression["children"]:
            yield from _conjuncts(child)
    elif expression["type"] == "OPERATOR_NOT":
        yield from _negated(expression)
    else:
        yield expression


def _negated(negation: Node) -> Iterator[Node]:
    """Yield the conjuncts of a NOT: `NOT (a OR b)` is `NOT a AND NOT b`, with NULLs too."""
    (child,) = negation["children"]
    if child["type"] != "CONJUNCTION_OR":
        yield negation
        return
    for part in child["children"]:
        yield from _conjuncts({**negation, "children": [part]})


def both(conjuncts: list[Node]) -> Node:
    """Return predicates joined by AND."""
    if len(conjuncts) == 1:
        return conjuncts[0]
    return {
        "class": "CONJUNCTION",
        "type": "CONJUNCTION_AND",
        "alias": "",
        "children": conjuncts,
    }
