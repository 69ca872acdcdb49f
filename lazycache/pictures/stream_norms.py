"""How long the vectors of a residual stream are, by layer and by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lazycache.cache.computing.row_spaces import same_rows
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.pictures.picture import BLUE, ORANGE, Picture, new_figure, part_of_matplotlib
from lazycache.pictures.plain_labels import drawn_text, every, layer_labels
from lazycache.query.asked import tensor_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.asked import Params

BAND = (0.05, 0.5, 0.95)
"""Quantiles over rows that are drawn of each layer."""

WIDE = 20.0
"""From this ratio of the largest mean to the least on, colours are logarithms."""

MANY = 50.0
"""From this ratio on, only powers of ten are written along an axis."""

COLOURED = (0.005, 0.995)
"""Quantiles of the means between which colours differ."""

TICKS = 16
"""Layers that are labelled, at most."""


def norms(
    cache: ActivationCache,
    sites: str | Sequence[str] = "resid_out_*",
    *,
    positions: int | None = None,
    where: str | None = None,
    params: Params = None,
) -> Picture:
    """Draw the Euclidean norm of rows: the mean by layer and position, and its spread by layer.

    On the left the mean norm of the rows at each position, a line for each site; on the right,
    over all these rows, the median with the range from 5 to 95 % of them, and the mean. All of
    them exact, in float64. A dataset without positions (pooled, or in memory) has the right side
    only. Rows whose norm is not finite are left out; the title says how many.

    Args:
        cache: Where the sites are.
        sites: A name, a pattern of names, or several; in numeric order from below.
        positions: Only the first so many positions; None for all.
        where: A condition in SQL on the rows, `"position > 0"`.
        params: Values for its parameters.

    `.values`: `mean` float64[layers, positions] (NaN where there is no row; of none, [layers, 0]),
    `quantiles` float64[layers, 3] at 5, 50 and 95 %, `means` float64[layers].

    Cost: reads every site once, one after the other, in blocks; asks the index for positions. In
    memory is a number for each row of one site, and its position: 16 bytes a row.

    Raises:
        SiteNotFoundError: no site fits; names the nearest.
        QueryError: no rows are left, a site has one number for each row, or is attention.
        CaptureError: matplotlib is not installed.

    Example:
        >>> from lazycache.samples import small_cache
        >>> norms(small_cache()).values["mean"].round(1).tolist()
        [[7.4, 6.4, 12.0]]
    """
    patterns = [sites] if isinstance(sites, str) else list(sites)
    names = cache.keys(*patterns)
    layers = _layers(cache, names, positions, where, params)
    count = max(len(one.mean) for one in layers)
    mean = np.full((len(layers), count), np.nan)
    for line, one in zip(mean, layers, strict=True):
        line[: len(one.mean)] = one.mean
    title = f"norm of {_named(names)}, {max(one.rows for one in layers):,} rows"
    left = sum(one.left for one in layers)
    title += f" ({left:,} not finite)" if left else ""
    values = {
        "mean": mean,
        "quantiles": np.stack([one.quantiles for one in layers]),
        "means": np.array([one.whole for one in layers]),
    }
    return _drawn(names, values, title)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """What is drawn of one site."""

    mean: np.ndarray
    """float64[positions]: mean norm; NaN where there is no row; of none, empty."""
    quantiles: np.ndarray
    """float64[3]: those of `BAND`."""
    whole: float
    """Mean over all rows."""
    rows: int
    """How many are finite."""
    left: int
    """How many are not."""


def _layers(
    cache: ActivationCache,
    names: Sequence[str],
    most: int | None,
    where: str | None,
    params: Params,
) -> list[_Layer]:
    found: list[_Layer] = []
    last: tuple[LazyTensor, np.ndarray | None] | None = None
    for name in names:
        x = tensor_of(cache, name, where=where, params=params).to("cpu")
        if not x.row_shape:
            raise QueryError(f"{name!r} has one number for each row: draw its histogram.")
        # sites of a dataset mostly have the same rows, whose positions are asked for once
        known = last is not None and same_rows(last[0].lead, x.lead)
        places = last[1] if known and last is not None else _positions(x)
        last = (x, places)
        found.append(_layer(name, x, places, most))
    return found


def _positions(x: LazyTensor) -> np.ndarray | None:
    """Return the position of each row, in the order of `x.rows`: int64[rows]; None without one."""
    if x.source.origins is None:
        return None
    try:
        column = x.rows.columns("position").column(0)
    except QueryError:  # rows are examples, which have none
        return None
    return column.to_numpy().astype(np.int64)  # type: ignore[no-any-return]  # pyarrow has no types


def _layer(name: str, x: LazyTensor, places: np.ndarray | None, most: int | None) -> _Layer:
    each = x.rows.norm(dim=tuple(range(-len(x.row_shape), 0)))
    assert isinstance(each, LazyTensor), "what keeps every row is lazy"
    lengths = each.numpy()
    if places is not None and most is not None:
        lengths, places = lengths[places < most], places[places < most]
    there = np.isfinite(lengths)
    kept = lengths[there]
    if not len(kept):
        raise QueryError(f"norms of {name}: no rows with finite values are chosen.")
    mean = np.empty(0) if places is None else _mean(kept, places[there])
    quantiles = np.quantile(kept, BAND)
    return _Layer(mean, quantiles, float(kept.mean()), len(kept), len(lengths) - len(kept))


def _mean(lengths: np.ndarray, places: np.ndarray) -> np.ndarray:
    counts = np.bincount(places)
    found: np.ndarray = np.full(len(counts), np.nan)
    np.divide(np.bincount(places, lengths), counts, out=found, where=counts > 0)
    return found


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _drawn(names: Sequence[str], values: dict[str, np.ndarray], title: str) -> Picture:
    height = 1.4 + min(4.2, max(1.2, 0.15 * len(names)))
    there = values["mean"].shape[1] > 0
    figure = new_figure(8.0 if there else 4.4, height)
    sides = figure.subplots(
        1, 2 if there else 1, squeeze=False, sharey=True, width_ratios=[1.9, 1] if there else [1]
    )[0]
    if there:
        _by_position(sides[0], values["mean"])
    _by_layer(sides[-1], values)
    axis, labels = layer_labels(names)
    places = every(len(names), most=TICKS)
    sides[0].set_yticks(list(places), [labels[at] for at in places], fontsize="small")
    sides[0].set_ylabel(axis)
    sides[0].set_ylim(-0.5, len(names) - 0.5)
    figure.suptitle(drawn_text(title), fontsize="medium")
    return Picture(figure, title=title, values=values)


def _by_position(axes: Axes, mean: np.ndarray) -> None:
    # a first token that is a hundred times as long shall not take all colours
    least, most = np.nanmin(mean), np.nanmax(mean)
    low, high = np.nanquantile(mean, COLOURED)
    wide = low > 0 and high > WIDE * low
    colours = part_of_matplotlib("colors")
    norm = colours.LogNorm(low, high) if wide else colours.Normalize(min(0, low), high or 1)
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max"}
    beyond = ends.get((bool(least < norm.vmin), bool(most > norm.vmax)), "both")
    drawn = axes.imshow(
        np.ma.masked_invalid(mean),
        cmap="viridis",
        norm=norm,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
    )
    axes.set_xlabel("position")
    ticker = part_of_matplotlib("ticker")
    axes.xaxis.set_major_locator(ticker.MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    bar = axes.figure.colorbar(drawn, ax=axes, location="left", pad=0.02, extend=beyond)
    bar.set_label("mean norm")
    if wide:
        _plain(bar.ax.yaxis, few=high > MANY * low)


def _by_layer(axes: Axes, values: dict[str, np.ndarray]) -> None:
    places = np.arange(len(values["means"]))
    low, middle, high = values["quantiles"].T
    if len(places) > 1:
        axes.fill_betweenx(places, low, high, color=BLUE, alpha=0.25, lw=0, label="5 – 95 %")
        axes.plot(middle, places, color=BLUE, label="median")
        axes.plot(values["means"], places, color=ORANGE, ls="--", label="mean")
    else:
        axes.hlines(places, low, high, color=BLUE, alpha=0.4, lw=6, label="5 – 95 %")
        axes.plot(middle, places, "o", color=BLUE, label="median")
        axes.plot(values["means"], places, "D", color=ORANGE, label="mean")
    if low.min() > 0 and high.max() > WIDE * low.min():
        axes.set_xscale("log")
        _plain(axes.xaxis, few=high.max() > MANY * low.min())
    axes.set_xlabel("norm")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize="small", frameon=False)


def _plain(axis: Axis, *, few: bool) -> None:
    """Write numbers along a logarithmic axis as numbers, not as powers."""
    ticker = part_of_matplotlib("ticker")
    axis.set_major_locator(ticker.LogLocator(subs=(1,) if few else (1, 2, 5)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.4g}")
