"""How an `ActivationCache` takes in others of the same keys: `cat`, at once or deferred."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from typing import Any, Self

from lazycache.cache.values.joining import check_kinds
from lazycache.mapping.aggregation_rules import Match, Rule
from lazycache.mapping.cache_state import CacheState
from lazycache.mapping.segments import Segments


class Aggregating(CacheState):
    """Joins caches, key by key."""

    def cat(self, other: CacheState) -> None:
        """Put the values of another cache behind those of this one, key by key.

        A registered strategy says how, else `default_aggregation`. An empty cache takes the other's
        entries: `f(old, new)` is called with `old=None` then, `f(values)` not at all. Inside
        `deferred_mode` it waits for the end of the block.

        Values are shared, not copied, until they are first read: do not write into them in between.
        An error leaves the cache as it was.

        Cost: no value is copied or read, one step per key, unless a strategy was registered. The
        first read of a key then concatenates what is in memory, once.

        Raises:
            TypeError: the other is no ActivationCache.
            ValueError: its keys differ (`Key mismatch: ...`), or values of a key are of different
                kinds. Also what a strategy raises.

        Example:
            >>> import torch
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache({"x": torch.zeros(2, 3), "label": "a"})
            >>> cache.cat(ActivationCache({"x": torch.ones(1, 3), "label": "b"}))
            >>> cache["x"].shape, cache["label"]
            (torch.Size([3, 3]), ['a', 'b'])
        """
        if not isinstance(other, CacheState):
            raise TypeError(
                f"Can only cat ActivationCache objects, not {type(other).__name__}: use update() "
                "or ActivationCache(a_dict)."
            )
        if self._queue is None:
            self._join([other])
        else:
            first = next((one for one in self._queue if len(one)), None)
            self._check_keys([other] if first is None else [first, other])
            self._queue.append(_as_it_is(other))

    @contextmanager
    def deferred_mode(self) -> Iterator[Self]:
        """Join only once, at the end of a block: the caches given to `cat` in it, in their order.

        Gives the cache itself, which shows what it had before until then. Strategies `f(values)`
        are called once, with all values. An exception drops what waits and leaves the cache as it
        was. A block inside another hands what waits to the outer one.

        Raises:
            What `cat` raises; the cache is then as it was.

        Example:
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache()
            >>> with cache.deferred_mode() as waiting:
            ...     for batch in range(3):
            ...         waiting.cat(ActivationCache({"batch": batch}))
            >>> cache["batch"]
            [0, 1, 2]
        """
        outer, queue = self._queue, list[CacheState]()
        self._queue = queue
        try:
            yield self
        finally:
            self._queue = outer
        if outer is None:
            self._join(queue)
        else:
            outer.extend(queue)

    def register_aggregation(
        self,
        prefix: str,
        function: Callable[..., Any],
        *,
        exact: bool = False,
        regex: bool = False,
    ) -> None:
        """Say how `cat` joins the values of some keys.

        Of several that apply to a key the one that was registered first is used, the built-in ones
        before all: `mapping_index` keeps the first, `offset` and `token_dict` gather lists,
        `last_layernorm` joins each of its entries. Registering under the same text again replaces.

        Args:
            prefix: What keys begin with: `resid_out_1` is also that of `resid_out_10`.
            function: `f(values)`, called with a list of the old and the new value (of all, in
                `deferred_mode`), or `f(old, new)`, called with `old=None` first. Which of both, it
                says by the number of arguments that it needs.
            exact: Only the key that is exactly `prefix`.
            regex: Keys that match `prefix`, a regular expression, from end to end.

        Raises:
            TypeError: no text, no function, or one of other arguments.
            ValueError: a bad regular expression, or both `exact` and `regex`.

        Example:
            >>> from lazycache import ActivationCache
            >>> cache = ActivationCache({"loss": 3.0})
            >>> cache.register_aggregation("loss", min)
            >>> cache.cat(ActivationCache({"loss": 2.0}))
            >>> cache["loss"]
            2.0
        """
        self.strategies.add(prefix, function, match=_match(exact=exact, regex=regex))

    def remove_aggregation(self, prefix: str, *, exact: bool = False, regex: bool = False) -> None:
        """Forget a strategy, also a built-in one. One that is not there is no error.

        Arguments as `register_aggregation`.
        """
        self.strategies.remove(prefix, match=_match(exact=exact, regex=regex))

    @staticmethod
    def default_aggregation(*values: Any) -> Any:
        """Return what `cat` makes of values where no strategy is registered.

        Tensors and numpy arrays are concatenated along the first dimension, single numbers stacked;
        where trailing shapes, devices or kinds of dtype differ they are collected in a list, one
        for each, as they came. Lists are extended, also by a value of the kind of their elements.
        Tuples, dicts, numbers, texts, None become a list of them. Info is kept, the oldest.

        Args:
            *values: One list of all, or the old and the new value; an old None is none.

        Raises:
            ValueError: kinds that do not belong together: a tensor and a number, say.

        Example:
            >>> from lazycache import ActivationCache
            >>> ActivationCache.default_aggregation(1, 2)
            [1, 2]
            >>> ActivationCache.default_aggregation(["a", "b", "c"])
            ['a', 'b', 'c']
        """
        parts = list(values[0]) if len(values) == 1 else list(values)
        if len(values) > 1 and parts[0] is None:
            parts = parts[1:]
        return _chained("default_aggregation", [Segments.of(part) for part in parts]).value()

    def _join(self, others: Sequence[CacheState]) -> None:
        """Take in others, all or none of them."""
        given = self._check_keys(others)
        if not given:
            return
        keys = list(self.segments or given[0].segments)
        # everything that can fail comes first
        found = {key: self._joined(key, [one.segments[key] for one in given]) for key in keys}
        for key, (begin, new) in found.items():
            self.segments[key] = _extended(begin, new)
        for one in given:
            self.share(one)

    def _check_keys(self, others: Sequence[CacheState]) -> list[CacheState]:
        """Return the caches that add something; refuse those of other keys."""
        given = list(others) if self.segments else list(dropwhile(lambda c: not len(c), others))
        here = set(self.segments or (given[0].segments if given else ()))
        for one in given:
            if set(one.segments) != here:
                there = set(one.segments)
                raise ValueError(
                    f"Key mismatch: self has {_shown(here)}, external has {_shown(there)}. Missing "
                    f"there: {_shown(here - there)}; missing here: {_shown(there - here)}."
                )
        return given

    def _joined(self, key: str, new: list[Segments]) -> tuple[Segments | None, list[Segments]]:
        """Return what a key begins with from now on, and what comes behind that."""
        rule, old = self.strategies.of(key), self.segments.get(key)
        if rule is None or rule.form == "each":
            if rule is not None:
                new = [Segments.of(rule.function(one.value())) for one in new]
            _check(key, old, new)
            return old, new
        values = [one.value() for one in (new if old is None else [old, *new])]
        return None, [Segments.of(_applied(rule, values, is_new=old is None))]


def _applied(rule: Rule, values: list[Any], *, is_new: bool) -> Any:
    if rule.form == "values":
        return values[0] if len(values) == 1 else rule.function(values)
    result = rule.function(None, values[0]) if is_new else values[0]
    for value in values[1:]:
        result = rule.function(result, value)
    return result


def _check(key: str, old: Segments | None, new: list[Segments]) -> None:
    if len(new) == 1:
        if old is not None:
            check_kinds(key, old.resolved(), new[0].resolved())
        return
    before = [] if old is None else list(old.resolved())
    for one in new:
        check_kinds(key, before, one.resolved())
        before.extend(one.parts)


def _extended(begin: Segments | None, new: list[Segments]) -> Segments:
    result = new[0].copy() if begin is None else begin
    for one in new[1:] if begin is None else new:
        result.extend(one)
    return result


def _chained(key: str, parts: list[Segments]) -> Segments:
    if not parts:
        raise ValueError(f"{key}: there are no values.")
    _check(key, None, parts)
    return _extended(None, parts)


def _as_it_is(cache: CacheState) -> CacheState:
    """Return what a cache has now: what is done to it later comes too late."""
    made = CacheState()
    made.segments = cache.forked()
    made.share(cache)
    return made


def _match(*, exact: bool, regex: bool) -> Match:
    if exact and regex:
        raise ValueError("exact=True and regex=True: a key is compared in one way.")
    return "exact" if exact else "regex" if regex else "prefix"


def _shown(keys: set[str]) -> str:
    return f"{{{', '.join(map(repr, sorted(keys)))}}}"
