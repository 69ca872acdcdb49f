"""The order of predicates, as trees."""

import duckdb

from lazycache.query.sql.predicates import VOLATILE, cheap_first, lazy_test, repeatable


def column(name):
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [name]}


def both(*children):
    return {
        "class": "CONJUNCTION",
        "type": "CONJUNCTION_AND",
        "alias": "",
        "children": list(children),
    }


IS_LAZY = lazy_test(columns={"site"}, functions={"unit:site"})


def test_what_is_all_cheap_or_all_lazy_stays_as_it_is():
    """Only a mixture has an order."""
    for where in (column("a"), column("site"), both(column("a"), column("b"))):
        assert cheap_first(where, is_lazy=IS_LAZY) is where


def test_a_mixture_is_guarded_and_the_cheap_part_stands_outside_too():
    """Nested conjunctions are one; both parts keep their order."""
    where = both(column("a"), both(column("SITE"), column("b")))
    ordered = cheap_first(where, is_lazy=IS_LAZY)
    *plain, guard = ordered["children"]
    assert plain == [column("a"), column("b")]
    (check,) = guard["case_checks"]
    assert check == {"when_expr": both(column("a"), column("b")), "then_expr": column("SITE")}
    assert guard["else_expr"]["literal"] == {"kind": "BOOLEAN", "text": "false"}


def negation(child):
    return {"class": "OPERATOR", "type": "OPERATOR_NOT", "alias": "", "children": [child]}


def test_a_negated_alternative_is_a_mixture_too():
    """NOT (cheap OR lazy) is NOT cheap AND NOT lazy."""
    either = {**both(column("a"), column("site")), "type": "CONJUNCTION_OR"}
    plain, guard = cheap_first(negation(either), is_lazy=IS_LAZY)["children"]
    assert plain == negation(column("a"))
    (check,) = guard["case_checks"]
    assert check == {
        "when_expr": negation(column("a")),
        "then_expr": negation(column("site")),
    }
    for where in (negation(both(column("a"), column("site"))), negation(column("site"))):
        assert cheap_first(where, is_lazy=IS_LAZY) is where


def test_what_must_not_stand_twice_stands_in_the_guard_only():
    """Random functions and subqueries are evaluated once."""
    random = {"class": "FUNCTION", "type": "FUNCTION", "alias": "", "function_name": "Random"}
    subquery = {"class": "SUBQUERY", "type": "SUBQUERY", "alias": ""}
    assert not repeatable(random)
    assert not repeatable(both(column("a"), subquery))
    guard = cheap_first(both(random, column("site")), is_lazy=IS_LAZY)
    assert guard["type"] == "CASE_EXPR"
    assert guard["case_checks"][0]["when_expr"] is random


def test_the_list_of_volatile_functions_is_duckdbs():
    """A new DuckDB may bring new ones: this test says so."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions() "
            "WHERE stability = 'VOLATILE'"
        ).fetchall()
    assert {name for (name,) in found} <= VOLATILE
