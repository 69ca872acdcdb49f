"""What a question reads, told before it is asked: of lazy tensors, of SQL, of named questions."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, cast

import torch

from lazycache.cache.reading.costs import Tally
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.cache.tensor.ragged_tensor import RaggedTensor
from lazycache.errors import QueryError
from lazycache.faces.html import card, facts
from lazycache.query.asked import Cache, Params
from lazycache.query.sql.foresight import Kind

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True)
class Cost:
    """What is read, in the words of `cache.io`."""

    rows: int = 0
    """Rows handed out; one that is read twice counts twice."""
    bytes: int = 0
    """Bytes of values."""
    requests: int = 0
    """Ranges of shards: requests, where the dataset is not on this machine."""
    statistics_bytes: int = 0
    """Bytes of stored statistics, which are not in the other numbers."""
    kind: Kind = Kind.EXACT
    """`exact`, `at most` or `about`."""

    @cached_property
    def exact(self) -> bool:
        """Whether it is that, and not a bound."""
        return self.kind == Kind.EXACT

    @cached_property
    def upper(self) -> bool:
        """Whether no more is read than this."""
        return self.kind != Kind.ABOUT

    @classmethod
    def of(cls, tally: Tally) -> Cost:
        """Return what was counted. For this package."""
        sums = tally.total()
        kind = Kind.EXACT if tally.exact else Kind.AT_MOST
        return cls(sums.rows, sums.nbytes, sums.requests, sums.statistics, kind)

    def __add__(self, other: Self) -> Cost:
        return Cost(
            self.rows + other.rows,
            self.bytes + other.bytes,
            self.requests + other.requests,
            self.statistics_bytes + other.statistics_bytes,
            self.kind | other.kind,
        )

    def certain(self, kind: str) -> Cost:
        """Return it no more certain than `kind`. For this package."""
        return replace(self, kind=self.kind | kind)

    def some_rows(self) -> Cost:
        """Return the bound for some of these rows, each perhaps a request. For this package."""
        return replace(self, requests=max(self.requests, self.rows), kind=self.kind | Kind.AT_MOST)

    def __str__(self) -> str:
        """Return it in one line, with units that people read."""
        lead = "" if self.exact else f"{self.kind} "
        parts = [
            f"{self.rows:,} rows",
            f"{human(self.bytes)} in {self.requests:,} request{'s' * (self.requests != 1)}",
        ]
        if self.statistics_bytes:
            parts.append(f"{human(self.statistics_bytes)} of statistics")
        return lead + ", ".join(parts)

    def __repr__(self) -> str:
        return f"Cost({self})"

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        rows = ("rows", self.rows), ("bytes", human(self.bytes)), ("requests", self.requests)
        counted = self.statistics_bytes
        statistics = ("statistics", human(counted) if counted else None)
        return card(str(self.kind), facts([*rows, statistics]), kind="Cost")


def human(nbytes: int) -> str:
    """Return bytes as people write them.

    Example:
        >>> human(460_800_000), human(12)
        ('439.5 MiB', '12 bytes')
    """
    for size, name in _UNITS:
        if nbytes >= size:
            return f"{nbytes / size:.1f} {name}"
    return f"{nbytes:,} bytes"


def cost(
    cache: Cache, question: object, /, *args: Any, params: Params = None, **options: Any
) -> Cost:
    """Return what a question reads; see `ActivationCache.cost`.

    Example:
        >>> from lazycache.samples import small_cache
        >>> cache = small_cache()
        >>> cost(cache, cache["resid_out_0"][1])
        Cost(3 rows, 24 bytes in 1 request)
    """
    from lazycache.query.estimating import question_costs, sql_costs

    if isinstance(question, str) and question in question_costs.QUESTIONS:
        return question_costs.of_question(cache, question, args, {"params": params, **options})
    if args:
        raise QueryError(
            f"cost({question!r:.60}, ...) with more arguments takes one of the questions "
            f"{', '.join(question_costs.QUESTIONS)}."
        )
    if isinstance(question, str) and question not in cast("Container[str]", cache):
        return sql_costs.of_query(cache, question, params, **options)
    found = cache[question] if isinstance(question, str) else question
    if options or params is not None:
        raise QueryError("cost of a tensor takes no more: select its rows first, x.where(...).")
    return of_tensor(found)


def of_tensor(x: object) -> Cost:
    """Return what `x.load()` reads, or where examples differ in length `x.nested()`.

    Raises:
        QueryError: it is no tensor.
    """
    if isinstance(x, torch.Tensor):
        return Cost()
    if isinstance(x, RaggedTensor):
        from lazycache.query.estimating.pattern_costs import of_patterns

        return Cost.of(of_patterns(x))
    if not isinstance(x, LazyTensor):
        raise QueryError(
            f"cost takes a lazy tensor, SQL, or the name of a question, not {type(x).__name__}."
        )
    return Cost.of(x.cost_of(x.lead.flat()))
