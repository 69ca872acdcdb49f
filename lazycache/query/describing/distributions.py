"""How values are distributed: counts between edges, quantiles, and how often each unit fires."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lazycache.cache.aggregates.covering import Covering, covering
from lazycache.cache.aggregates.histogram import Bins, Histogram
from lazycache.cache.aggregates.quantiles import Interpolation
from lazycache.cache.aggregates.reduce import no_rows, tiles
from lazycache.cache.aggregates.row_stream import RowStream, by_rows
from lazycache.cache.reading.known import Known
from lazycache.cache.reading.ordering import comparable
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params, Site, tensor_of, unit_of

FEW = 4
"""One of so many units, or fewer, are read by themselves; more are read with all the others."""


def histogram(
    cache: Cache,
    site: Site,
    bins: Bins = 100,
    range: tuple[float, float] | None = None,  # noqa: A002  # torch's and numpy's name
    *,
    unit: int | Sequence[int] | None = None,
    where: str | None = None,
    params: Params = None,
) -> Histogram:
    """Count values between edges, of all units or of one; see `ActivationCache.histogram`."""
    x = tensor_of(cache, site, where=where, params=params)
    return (x if unit is None else unit_of(x, unit)).histogram(bins, range)


def quantiles(
    cache: Cache,
    site: Site,
    q: float | Sequence[float] | torch.Tensor,
    *,
    unit: int | Sequence[int] | None = None,
    interpolation: Interpolation = "linear",
    where: str | None = None,
    params: Params = None,
) -> torch.Tensor:
    """Return quantiles of each unit over all rows; see `ActivationCache.quantiles`."""
    x = tensor_of(cache, site, where=where, params=params)
    asked = x if unit is None else unit_of(x, unit)
    found = asked.quantile(q, interpolation=interpolation)
    assert isinstance(found, torch.Tensor), "over all rows"
    return found


def firing_rates(
    cache: Cache,
    site: Site,
    threshold: float = 0.0,
    *,
    where: str | None = None,
    params: Params = None,
) -> torch.Tensor:
    """Return how often each unit is above a threshold; see `ActivationCache.firing_rates`.

    Values are compared with the threshold as it is, not rounded to their dtype.
    """
    stream = by_rows(tensor_of(cache, site, where=where, params=params))
    if not stream.rows:
        raise no_rows("firing_rates")
    bar = _bar(threshold, stream.x.dtype)
    shape = stream.x.row_shape
    if bar is None:
        return torch.ones(shape, dtype=torch.float64, device=stream.x.device)
    fired = _fired(stream, bar).to(stream.x.device)
    return (fired.double() / stream.rows).reshape(shape)


def _bar(threshold: float, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the greatest value of a dtype that is not above a number; None if there is none.

    What is above it is above the number, and compares in the dtype itself. As `comparable`.

    Example:
        >>> _bar(0.1, torch.bfloat16), _bar(2.5, torch.int8), _bar(-1, torch.bool)
        (tensor([0.0996], dtype=torch.bfloat16), tensor([2], dtype=torch.int8), None)
    """
    if isinstance(threshold, torch.Tensor | np.generic):
        threshold = threshold.item()
    if not isinstance(threshold, int | float) or math.isnan(threshold):
        raise QueryError(f"firing_rates(threshold={threshold!r}): the threshold is a number.")
    if dtype.is_floating_point:
        return _float_bar(float(threshold), comparable(torch.empty(0, dtype=dtype)).dtype)
    least, most = (0, 1) if dtype == torch.bool else _ends(dtype)
    if threshold < least:
        return None
    below = most if threshold >= most else math.floor(threshold)
    return comparable(torch.tensor([below], dtype=dtype))


def _ends(dtype: torch.dtype) -> tuple[int, int]:
    info = torch.iinfo(dtype)
    return info.min, info.max


def _float_bar(threshold: float, dtype: torch.dtype) -> torch.Tensor:
    bar = torch.tensor([threshold], dtype=torch.float64).to(dtype)
    if bar.double().item() <= threshold:
        return bar
    return torch.nextafter(bar, torch.full_like(bar, -math.inf))


def _fired(stream: RowStream, bar: torch.Tensor) -> torch.Tensor:
    """Return in how many rows each unit is above the bar: int64[units], in this machine's memory.

    Of blocks whose least and greatest values say it nothing is read. Of the others are the units
    that they do not say it of, or all units where these are not few.
    """
    covered = covering(stream)
    if covered is None:
        return _counted(stream, bar, None)
    found = _told(covered, bar)
    fired = found.sure + found.beside.masked_fill(found.units, 0)
    fired += _counted(stream, bar, covered.rest())
    if found.blocks.any():
        narrow = _only(stream, found.units)
        fired[found.units] += _counted(narrow, bar, _ranges(covered, found.blocks))
    return fired


def _counted(
    stream: RowStream, bar: torch.Tensor, parts: Iterator[range | np.ndarray] | None
) -> torch.Tensor:
    def above(matrix: torch.Tensor) -> torch.Tensor:
        here = bar.to(matrix.device)
        found = [(comparable(tile) > here).sum(0) for tile in tiles(matrix)]
        return torch.stack(found).sum(0) if found else torch.zeros(stream.units, dtype=torch.int64)

    fired = torch.zeros(stream.units, dtype=torch.int64)
    for part in stream.map(above, parts):
        fired += part.cpu()
    return fired


@dataclass(frozen=True, slots=True, eq=False)
class _Told:
    """What statistics say of blocks."""

    sure: torch.Tensor
    """int64[units]: rows that fire in blocks of which all is known."""
    beside: torch.Tensor
    """int64[units]: the same of the other blocks; of units of which it is known there."""
    blocks: np.ndarray
    """bool[blocks]: the other blocks, which have to be read."""
    units: torch.Tensor
    """bool[units]: units that have to be read there."""


def _told(covered: Covering, bar: torch.Tensor) -> _Told:
    units = covered.stream.units
    sure, beside = torch.zeros(2, units, dtype=torch.int64)
    open_units = torch.zeros(units, dtype=torch.bool)
    open_blocks = []
    for known in covered.known():
        counts, unsure = _of_blocks(known, bar)
        blocks = unsure.any(1)
        sure += counts[~blocks].sum(0)
        beside += counts[blocks].sum(0)
        open_units |= unsure.any(0)
        open_blocks.append(blocks.numpy())
    if FEW * int(open_units.sum()) > units:
        open_units[:] = True
    chosen = covered.none()
    chosen[covered.whole] = np.concatenate(open_blocks)
    return _Told(sure, beside, chosen, open_units)


def _of_blocks(known: Known, bar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many values of each block fire for sure, and where it is not known."""
    low, high = comparable(known.min) > bar, comparable(known.max) > bar
    some = known.finite > 0
    infinite = bool(bar < math.inf) if bar.dtype.is_floating_point else False
    counts = known.finite.where(low & some, 0) + known.pos_infs * infinite
    return counts, some & high & ~low


def _ranges(covered: Covering, blocks: np.ndarray) -> Iterator[range]:
    found = covered.statistics
    for start, stop in zip(found.starts[blocks], found.stops[blocks], strict=True):
        yield range(int(start), int(stop))


def _only(stream: RowStream, units: torch.Tensor) -> RowStream:
    """Return a stream of some units of each row."""
    if bool(units.all()):
        return stream
    x: LazyTensor = stream.x
    places = np.unravel_index(np.flatnonzero(units.numpy()), x.row_shape)
    return by_rows(x[(*(slice(None),) * x.lead_ndim, *places)])
