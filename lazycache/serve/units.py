"""One unit of one site: what an address asks, and the tensor that it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.tables.conditions import quoted
from lazycache.query.asked import tensor_of, unit_of
from lazycache.serve import asked
from lazycache.serve.explorer import Explorer
from lazycache.storage.layout import IDENTITY
from lazycache.types import EXAMPLES, RAGGED

if TYPE_CHECKING:
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.mapping.activation_cache import ActivationCache

EAGER_BYTES = 512 << 20
"""Bytes of a site on this machine of which a page reads every row without being asked."""

_LAYER = re.compile(r"(?<=_)[0-9]+$")


@dataclass(frozen=True, slots=True)
class UnitAsked:
    """What the address of a unit says."""

    site: str
    """The site."""
    unit: tuple[int, ...]
    """An index for each dimension of a row; () for the first one."""
    later: bool = False
    """Leave out what is first in each example."""
    distinct: bool = False
    """One row of each example at most."""
    whole: bool = False
    """Read every row, however many there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One unit, to be asked about."""

    cache: ActivationCache
    """The dataset, or the rows of it that are asked about."""
    site: str
    """The site."""
    x: LazyTensor
    """The site."""
    one: LazyTensor
    """The unit: a number for each row."""
    unit: tuple[int, ...]
    """An index for each dimension of a row."""
    asked: UnitAsked
    """What the address says."""

    @property
    def spelled(self) -> str:
        """The unit, as addresses have it."""
        return asked.spelled(self.unit)

    @property
    def address(self) -> dict[str, object]:
        """The query of an address of this unit, with the choice of rows."""
        return {"site": self.site, "unit": self.spelled, "later": 1 if self.asked.later else None}

    @property
    def of_tokens(self) -> bool:
        """Whether its rows are tokens."""
        return self.x.source.spec.table != EXAMPLES

    @property
    def eager(self) -> bool:
        """Whether a page reads all of it without being asked: it is near, and not too large."""
        near = bool(self.cache.datasets) and self.cache.store.local_path(IDENTITY) is not None
        return self.asked.whole or (near and self.x.nbytes <= EAGER_BYTES)


def asked_of(query: Mapping[str, str]) -> UnitAsked | None:
    """Return what an address says of a unit; None where it names no site.

    Raises:
        QueryError: the unit is no number.

    Example:
        >>> asked_of({"site": "mlp_act_3", "unit": "7"}).unit
        (7,)
    """
    site = asked.text_of(query, "site")
    if site is None:
        return None
    later, distinct, whole = (query.get(name) == "1" for name in ("later", "distinct", "whole"))
    return UnitAsked(site, asked.unit_of(query), later, distinct, whole)


def found(explorer: Explorer, what: UnitAsked) -> Unit:
    """Return the unit that an address means; without a unit, the first.

    Raises:
        SiteNotFoundError: there is no such site; names the nearest.
        QueryError: it is an attention pattern, or it is not one index for each dimension.
        SelectionError: there is no such unit.
    """
    cache = explorer.cache.where("position > 0") if what.later else explorer.cache
    x = tensor_of(cache, what.site)
    unit = what.unit or (0,) * len(x.row_shape)
    return Unit(cache, what.site, x, unit_of(x, unit), unit, what)


def sites_with_units(explorer: Explorer) -> list[str]:
    """Return the names of the sites of which units can be asked, in natural order."""
    sites = explorer.cache.stored.sites
    return [name for name in explorer.cache if name in sites and sites[name].layout != RAGGED]


def first_of(names: list[str]) -> str | None:
    """Return the site that is shown to who has not chosen: neurons of a middle layer, if any.

    Example:
        >>> first_of(["embed", "mlp_act_0", "mlp_act_1", "mlp_act_2"]), first_of(["embed"])
        ('mlp_act_1', 'embed')
    """
    neurons = [name for name in names if name.startswith("mlp_act_")] or names
    return neurons[len(neurons) // 2] if len(neurons) > 1 else next(iter(names), None)


def beside(shape: tuple[int, ...], unit: tuple[int, ...]) -> tuple[str | None, str | None]:
    """Return the units before and after one, in the order of memory.

    Example:
        >>> beside((2, 4), (0, 3)), beside((3,), (0,)), beside((), ())
        (('0,2', '1,0'), (None, '1'), (None, None))
    """
    if not shape:
        return None, None
    place, count = int(np.ravel_multi_index(unit, shape)), int(np.prod(shape))
    near = (place - 1 if place else None, place + 1 if place + 1 < count else None)
    before, after = (
        None if n is None else asked.spelled([int(i) for i in np.unravel_index(n, shape)])
        for n in near
    )
    return before, after


def layers_beside(site: str, names: list[str]) -> tuple[str | None, str | None]:
    """Return the same site of the layers before and after, as far as they are there.

    Example:
        >>> layers_beside("mlp_act_9", ["mlp_act_9", "mlp_act_10"]), layers_beside("embed", [])
        ((None, 'mlp_act_10'), (None, None))
    """
    layer = _LAYER.search(site)
    if layer is None:
        return None, None
    known, at = set(names), int(layer[0])
    before, after = (f"{site[: layer.start()]}{n}" for n in (at - 1, at + 1))
    return before if before in known else None, after if after in known else None


def sql_of(unit: Unit, *, columns: tuple[str, ...]) -> str | None:
    """Return the query that finds the same rows; None of what is no column of a table."""
    if unit.site not in unit.cache.stored.sites:
        return None
    table, place = unit.x.source.spec.table, ", ".join(map(str, unit.unit))
    value = f"unit({quoted(unit.site)}, {place})" if unit.unit else quoted(unit.site)
    listed = ", ".join(["example", *columns, f"{value} AS value"])
    where = "\nWHERE position > 0" if unit.asked.later else ""
    return f"SELECT {listed}\nFROM {table}{where}\nORDER BY value DESC\nLIMIT 20"
