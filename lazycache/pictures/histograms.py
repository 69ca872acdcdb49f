"""How values are distributed, as bars with marks at quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.aggregates.histogram import Histogram
from lazycache.errors import QueryError
from lazycache.pictures.picture import BLUE, ORANGE, Picture, new_figure, part_of_matplotlib
from lazycache.pictures.plain_labels import drawn_number, drawn_text
from lazycache.query.asked import tensor_of, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.asked import Params, Site

QUANTILES = (0.01, 0.5, 0.99)
"""Quantiles that are marked."""

MIDDLE = (0.0005, 0.9995)
"""Quantiles between which nearly all values are."""

FAR = 8.0
"""Where all values reach so many times as far as nearly all, bars are of these."""

CLOSE = 0.22
"""Share of the width that the name of a mark takes."""

BARS, MARKS = BLUE, ORANGE


def histogram(
    cache: ActivationCache,
    site: Site,
    unit: int | Sequence[int] | None = None,
    bins: int = 60,
    *,
    quantiles: Sequence[float] = QUANTILES,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    where: str | None = None,
    params: Params = None,
) -> Picture:
    """Draw how the values of a unit, or of all units of a site together, are distributed.

    Where a few values are far from all others (8 times as wide as what 99.9 % of them take), bars
    show the 99.9 %, and the picture says how many are outside and how far they go.

    Args:
        cache: Where the site is.
        site: A key of the cache, or a tensor.
        unit: 0-based, an index for each dimension of a row; None: all units together.
        bins: How many bars, of one width.
        quantiles: Where marks are; () for none.
        limits: First and last edge; None: as above.
        log: Whether counts are drawn as logarithms.
        where: A condition in SQL on the rows.
        params: Values for its parameters.

    `.values`: `counts` int64[bins], `edges` float64[bins + 1], `quantiles` float64[quantiles],
    `outside` int64[2] below and above, `not_finite` int64[1]. All exact.

    Cost: as `cache.histogram` and `cache.quantiles`: some passes over the unit, or over the site.

    Raises:
        SiteNotFoundError: there is no such site; names the nearest.
        QueryError: `unit` is not one index for each dimension of a row, or no value is finite.
        SelectionError: no such unit, or no rows.
        CaptureError: matplotlib is not installed.

    Example:
        >>> from lazycache.samples import small_cache
        >>> picture = histogram(small_cache(), "resid_out_0", unit=0, bins=3)
        >>> picture.values["counts"].tolist(), picture.values["quantiles"].round(2).tolist()
        ([2, 2, 2], [0.1, 5.0, 9.9])
    """
    x = tensor_of(cache, site, where=where, params=params).to("cpu")
    x = x if unit is None else unit_of(x, unit)
    low, high = _ends(x)
    *marks, first, last = _at(x, [*quantiles, *MIDDLE])
    found = x.histogram(bins, _near(low, high, first, last) if limits is None else limits)
    of = f"{site if isinstance(site, str) else x.site} " + (
        "all units" if unit is None else f"unit {_text(unit)}"
    )
    shown = int(found.counts.sum() + found.below + found.above)
    title = f"{of}, {shown:,} values"
    figure = new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    _bars(axes, found, log=log)
    _marks(axes, quantiles, marks)
    figure.suptitle(drawn_text(title), fontsize="medium")
    note = _outside(found, low, high)
    axes.set_xlabel(f"value\n{note}" if note else "value")
    axes.set_ylabel("values (log)" if log else "values")
    return Picture(figure, title=title, values=_numbers(found, np.array(marks)))


def _ends(x: LazyTensor) -> tuple[float, float]:
    """Return the least and the greatest value that are finite.

    Raises:
        QueryError: there is none.
    """
    found = x.histogram(1)
    if not int(found.counts.sum()):
        raise QueryError(f"{x!r} has no finite value: there is nothing to draw.")
    edges = found.edges.flatten()
    return float(edges[0]), float(edges[-1])


def _at(x: LazyTensor, quantiles: Sequence[float]) -> list[float]:
    found = x.quantile(quantiles, dim=None)
    assert isinstance(found, torch.Tensor), "over all values"
    marks: list[float] = found.tolist()
    return marks


def _near(low: float, high: float, first: float, last: float) -> tuple[float, float]:
    """Return what bars cover: all, or nearly all where few values are far from all others."""
    # a quantile beside NaN or infinity is none
    told = math.isfinite(last - first) and first < last
    return (first, last) if told and high - low > FAR * (last - first) else (low, high)


def _text(unit: int | Sequence[int]) -> str:
    return str(unit) if isinstance(unit, int | np.integer) else ", ".join(map(str, unit))


def _bars(axes: Axes, found: Histogram, *, log: bool) -> None:
    counts, edges = found.counts.numpy(), found.edges.numpy()
    axes.stairs(counts, edges, fill=True, color=BARS, alpha=0.55)
    axes.stairs(counts, edges, color=BARS, lw=0.8)
    if log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
    axes.set_xlim(edges[0], edges[-1])
    axes.spines[["top", "right"]].set_visible(False)
    if not log:
        axes.yaxis.set_major_locator(
            part_of_matplotlib("ticker").MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True)
        )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _marks(axes: Axes, quantiles: Sequence[float], marks: Sequence[float]) -> None:
    """Draw lines at quantiles; their names stand above, where they are close in several lines."""
    low, high = axes.get_xlim()
    ends: list[float] = []
    for q, value in sorted(zip(quantiles, marks, strict=True), key=lambda one: one[1]):
        if not low <= value <= high:
            continue
        place = (value - low) / (high - low)
        line = next((i for i, end in enumerate(ends) if place - end > CLOSE), len(ends))
        ends[line : line + 1] = [place]
        axes.axvline(value, color=MARKS, ls="--", lw=1)
        axes.annotate(
            f"{100 * q:g} %: {drawn_number(value)}",
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 10 * line),
            textcoords="offset points",
            ha="center",
            fontsize="small",
            color=MARKS,
            annotation_clip=False,
        )


def _outside(found: Histogram, low: float, high: float) -> str:
    said = []
    if int(found.below):
        said.append(f"{int(found.below):,} below, to {drawn_number(low)}")
    if int(found.above):
        said.append(f"{int(found.above):,} above, to {drawn_number(high)}")
    strange = _not_finite(found)
    return "; ".join([*said, *([f"{strange:,} not finite"] if strange else [])])


def _not_finite(found: Histogram) -> int:
    return int(found.nans + found.pos_infs + found.neg_infs)


def _numbers(found: Histogram, marks: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "counts": found.counts.numpy(),
        "edges": found.edges.numpy(),
        "quantiles": marks,
        "outside": np.array([int(found.below), int(found.above)]),
        "not_finite": np.array([_not_finite(found)]),
    }
