"""Which keys are joined in a way of their own: strategies by prefix, exact name or pattern."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from lazycache.cache.values.joining import as_list, check_kinds, joined
from lazycache.errors import LazycacheError

Form = Literal["values", "pair", "each"]
"""How a function is called: `f(values)`, `f(old, new)`, or with each new value before it joins."""

Match = Literal["prefix", "exact", "regex"]
"""How a key is compared with what was registered."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How the values of some keys are joined."""

    match: Match
    """How keys are compared with `text`."""
    text: str
    """A prefix, a key, or a regular expression that is to match a whole key."""
    function: Callable[..., Any]
    """What joins them."""
    form: Form
    """How it is called."""

    def applies(self, key: str) -> bool:
        """Whether it is for this key."""
        if self.match == "regex":
            return re.fullmatch(self.text, key) is not None
        return key == self.text if self.match == "exact" else key.startswith(self.text)


def first(old: Any, new: Any) -> Any:
    """Keep what was there first."""
    return new if old is None else old


def parts_joined(old: Any, new: Any) -> Any:
    """Join two dicts entry by entry; what is no dict as any other value.

    Raises:
        ValueError: their keys differ, or entries are of different kinds.

    Example:
        >>> parts_joined({"mean": [1]}, {"mean": [2]})
        {'mean': [1, 2]}
    """
    if old is None:
        return new
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        check_kinds("last_layernorm", [old], [new])
        return joined([old, new])
    if set(old) != set(new):
        raise ValueError(f"last_layernorm: {sorted(old)} and {sorted(new)} are not joined.")
    for name in old:
        check_kinds(f"last_layernorm, {name}", [old[name]], [new[name]])
    return {name: joined([old[name], new[name]]) for name in old}


BUILT_IN = (
    Rule("prefix", "mapping_index", first, "pair"),
    Rule("prefix", "offset", as_list, "each"),
    Rule("prefix", "token_dict", as_list, "each"),
    Rule("prefix", "last_layernorm", parts_joined, "pair"),
)
"""Strategies that every cache begins with."""


class AggregationRules:
    """The strategies of one cache, in the order in which they were registered."""

    def __init__(self, rules: Sequence[Rule] = BUILT_IN) -> None:
        self._rules = {(rule.match, rule.text): rule for rule in rules}

    def add(self, text: str, function: Callable[..., Any], *, match: Match) -> None:
        """Register a function; under the same text it replaces the earlier, in its place.

        Raises:
            TypeError: the text is none, or the function takes neither one argument nor two.
            ValueError: a bad regular expression.
        """
        if not isinstance(text, str):
            raise TypeError(f"A strategy is registered for a str, not for {text!r:.60}.")
        if match == "regex":
            try:
                re.compile(text)
            except re.error as exc:
                raise ValueError(f"{text!r} is not a valid regular expression: {exc}.") from exc
        self._rules[match, text] = Rule(match, text, function, form_of(function))

    def remove(self, text: str, *, match: Match) -> None:
        """Forget a strategy, also a built-in one; of a text that is not there, do nothing."""
        self._rules.pop((match, text), None)

    def of(self, key: str) -> Rule | None:
        """Return the first that applies to a key."""
        return next((rule for rule in self._rules.values() if rule.applies(key)), None)

    def __reduce__(self) -> tuple[Any, ...]:
        for rule in self._rules.values():
            _check_pickled(rule)
        return type(self), (tuple(self._rules.values()),)

    def copy(self) -> Self:
        """Return the same strategies, to be changed on their own."""
        return type(self)(tuple(self._rules.values()))

    def merged(self, other: AggregationRules) -> Self:
        """Return these, then those of another that are not among them."""
        return type(self)(tuple({**other._rules, **self._rules}.values()))


def _check_pickled(rule: Rule) -> None:
    """Refuse a function that another process could not find; say of which keys it is."""
    try:
        pickle.dumps(rule.function)
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        raise LazycacheError(
            f"The strategy for {rule.text!r} ({rule.match}) cannot be pickled: {exc}. Define it as "
            f"a function of a module, or take it out: cache.remove_aggregation({rule.text!r})."
        ) from exc


def form_of(function: Callable[..., Any]) -> Form:
    """Return how a function is to be called: with all values, or with the old and the new.

    By how many arguments it needs. A function that does not tell, as those of torch, gets a list.

    Raises:
        TypeError: it cannot be called with one or two arguments.

    Example:
        >>> form_of(lambda values: values[0]), form_of(lambda old, new: new), form_of(len)
        ('values', 'pair', 'values')
    """
    if not callable(function):
        raise TypeError(f"A strategy is a function, not {function!r:.60}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "values"
    for count, form in ((1, "values"), (2, "pair")):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return form  # type: ignore[return-value]  # of the two above
    raise TypeError(f"A strategy is called f(values) or f(old, new); {signature} fits neither.")
