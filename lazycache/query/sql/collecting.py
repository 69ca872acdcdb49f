"""Lazy expressions over full chunks of the rows that cheap predicates leave. Pure.

DuckDB pushes cheap predicates into its scan, which hands on what is left of 2,048 rows at a time:
often one row, and a call of ours costs the same for one as for 2,048. A filter that DuckDB cannot
push down, `random() < 2`, always true, collects them: where what comes after it takes rows in any
order. Where it does not, the rows are collected by sorting them by `row`, the order they have.

    SELECT avg(lazy) FROM t WHERE cheap
    SELECT avg(lazy) FROM t WHERE cheap AND random() < 2

    SELECT lazy FROM t WHERE cheap AND also_lazy
    SELECT lazy FROM (SELECT * FROM t WHERE cheap AND random() < 2 ORDER BY row) AS t
    WHERE also_lazy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from lazycache.query.sql import predicates, trees
from lazycache.query.sql.scope import ROW, Ctes, Node, Source

ANY_ORDER = frozenset(
    {
        *("count", "count_star", "sum", "avg", "mean", "min", "max", "stddev", "stddev_pop"),
        *("stddev_samp", "variance", "var_pop", "var_samp", "median", "quantile", "quantile_cont"),
        *("quantile_disc", "corr", "covar_pop", "covar_samp", "bool_and", "bool_or", "histogram"),
        *("fsum", "kahan_sum", "favg", "skewness", "kurtosis", "product", "regr_slope", "regr_r2"),
    }
)
"""Aggregates that take rows in any order; of others it is not known."""

FEW = frozenset({"COMPARE_EQUAL", "COMPARE_IN", "COMPARE_NOT_DISTINCT_FROM", "FUNCTION"})
"""Predicates that leave few rows of many, as a rule: `token = 'x'`, `IN`, `LIKE`."""


def collect(
    node: Node, sources: Sequence[Source], ctes: Ctes, *, is_lazy: Callable[[Node], bool]
) -> bool:
    """Let lazy expressions of a SELECT see full chunks, in place; say whether anything changed.

    Args:
        node: The SELECT, with everything below it rewritten already but for its WHERE.
        sources: What its FROM clause makes visible.
        ctes: The CTEs in scope.
        is_lazy: Whether an expression reads a shard.
    """
    where = node["where_clause"]
    cheap, lazy = predicates.parted(where, is_lazy=is_lazy) if where else ([], [])
    rest = {key: value for key, value in node.items() if key not in {"from_table", "cte_map"}}
    known = all(_is_known(one["column_names"], sources) for one in _columns(cheap))
    # a query that draws numbers itself must not find that others were drawn
    if not cheap or not is_lazy(rest) or predicates.draws(rest) or not known:
        return False
    if not lazy and _takes_any_order(node):
        node["where_clause"] = predicates.both([*cheap, _always()])
        return True
    if not _is_one_table(node, sources, ctes) or not all(map(predicates.repeatable, cheap)):
        return False
    if not _takes_any_order(node) and (node["modifiers"] or not any(map(_leaves_few, cheap))):
        return False
    _collect_below(node, sources[0].alias, cheap)
    if not lazy:
        node["where_clause"] = None
    return True


def _collect_below(node: Node, alias: str, cheap: list[Node]) -> None:
    """Let the table be what the cheap predicates leave of it."""
    order = [] if _takes_any_order(node) else [_by_row()]
    below = {
        **trees.select([trees.star()], node["from_table"]),
        "modifiers": order,
        "where_clause": predicates.both([*deepcopy(cheap), _always()]),
    }
    node["from_table"] = {
        "type": "SUBQUERY",
        "alias": alias,
        "sample": None,
        "subquery": {"node": below, "named_param_map": []},
        "column_name_alias": [],
    }


def _takes_any_order(node: Node) -> bool:
    """Whether rows go into a sort, groups or an aggregate."""
    kinds = {modifier["type"] for modifier in node["modifiers"]}
    if node["group_expressions"] or kinds & {"ORDER_MODIFIER", "DISTINCT_MODIFIER"}:
        return True
    return any(
        one.get("class") == "FUNCTION" and one["function_name"].lower() in ANY_ORDER
        for one in predicates.nodes(node["select_list"])
    )


def _is_one_table(node: Node, sources: Sequence[Source], ctes: Ctes) -> bool:
    """Whether a SELECT is of one table of rows, by names that a subquery can have as well."""
    table = node["from_table"]
    if table["type"] != "BASE_TABLE" or len(sources) != 1 or node["sample"]:
        return False
    if table["sample"] or table["at_clause"] or table["table_name"].lower() in ctes:
        return False
    (source,) = sources
    row = (source.outputs or {}).get(ROW)
    qualified = any(len(one["column_names"]) > 2 for one in _columns(node))  # noqa: PLR2004  # base.tokens.row
    return row is not None and row.column == ROW and not source.dataset and not qualified


def _leaves_few(predicate: Node) -> bool:
    if predicate["type"] == "CONJUNCTION_OR":
        return all(map(_leaves_few, predicate["children"]))
    one_row = predicate["type"] == "COMPARE_EQUAL" and any(
        side["class"] == "COLUMN_REF" and side["column_names"][-1].lower() == ROW
        for side in (predicate["left"], predicate["right"])
    )
    return predicate["type"] in FEW and not one_row


def _is_known(names: Sequence[str], sources: Sequence[Source]) -> bool:
    """Whether a name is one of the FROM clause: not an alias of the select list, nor of outside."""
    *path, column = (name.lower() for name in names)
    return any(
        source.goes_by(path) and (source.outputs is None or column in source.outputs)
        for source in sources
    )


def _columns(value: Any) -> list[Node]:
    return [one for one in predicates.nodes(value) if one.get("class") == "COLUMN_REF"]


def _by_row() -> Node:
    by = {"type": "ORDER_DEFAULT", "null_order": "ORDER_DEFAULT"}
    order = {**by, "expression": trees.column(ROW)}
    return {"type": "ORDER_MODIFIER", "orders": [order]}


def _always() -> Node:
    """Return `random() < 2`."""
    return {
        "class": "COMPARISON",
        "type": "COMPARE_LESSTHAN",
        "alias": "",
        "left": trees.call("random", []),
        "right": trees.number(2),
    }
