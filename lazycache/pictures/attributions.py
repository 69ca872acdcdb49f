"""Which parts of a model wrote a direction into the residual stream, as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lazycache.errors import QueryError
from lazycache.pictures.picture import BLUE, ORANGE, Picture, new_figure
from lazycache.pictures.plain_labels import drawn_text
from lazycache.query.attending.attributed import REMAINDER, Attribution
from lazycache.query.attending.attribution import attribute as asked_attribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.attending.attribution import Direction

TOP = 20
"""Parts that have a bar of their own."""

FOR, AGAINST, LEFT = ORANGE, BLUE, "#808080"
"""Orange adds to the direction, blue takes away, grey is what no single part explains."""

Order = Literal["size", "layer"]
"""Largest first, or as the model adds them."""


def attribution(
    cache: ActivationCache | Attribution,
    example: int | None = None,
    position: int | None = None,
    direction: Direction | None = None,
    *,
    top: int = TOP,
    order: Order = "size",
    **options: Any,
) -> Picture:
    """Draw how much each part of the model wrote of a direction: bars that add up to the total.

    Orange bars add to it, blue ones take away. The largest `top` parts have bars of their own; the
    others are one grey bar, their sum, and so is the remainder, which no stored part explains.

    Args:
        cache: Where the sites are; or what `cache.attribute(...)` gave, without more than `top`
            and `order`.
        example: Its id, as the column `example` of SQL has it.
        position: The column `position` of the row, negative from the last; None of a stream with
            one row for each example.
        direction: A vector of the width of the stream.
        top: How many parts have bars of their own.
        order: `"size"`, the largest first, or `"layer"`, as the model adds them, from above.
        **options: Those of `cache.attribute`: components, at, heads, scale, eps.

    `.values["attribution"]` is float64[bars], from above, grey bars last; they sum to the total.

    Cost: as `cache.attribute`: one row of each part.

    Raises:
        QueryError: as `cache.attribute`; no such order, or `top` is no number from 1.
        SiteNotFoundError: no such site.
        CaptureError: matplotlib is not installed.

    Example:
        >>> from lazycache.query.attending.attributed import Attribution
        >>> found = Attribution(["embed", "mlp_out_0"], [1.0, -3.0], total=-1.5, site="resid_out_0",
        ...                     example=4, position=2)
        >>> attribution(found).values["attribution"].tolist()
        [-3.0, 1.0, 0.5]
    """
    found = _asked(cache, example, position, direction, options)
    if order not in ("size", "layer") or isinstance(top, bool) or not top >= 1:
        raise QueryError(
            f"attribution(top={top!r}, order={order!r}): a number from 1; 'size' or 'layer'."
        )
    names, values = _bars_of(found, top, order)
    where = "" if found.position is None else f", position {found.position}"
    title = f"attribution of {found.site}, example {found.example}{where}: {found.total:.4g}"
    figure = new_figure(6.4, 1.1 + 0.21 * len(names))
    axes = figure.add_subplot()
    _bars(axes, names, values)
    axes.set_title(drawn_text(title), fontsize="medium", loc="left")
    return Picture(figure, title=title, values={"attribution": values})


def _asked(
    cache: ActivationCache | Attribution,
    example: int | None,
    position: int | None,
    direction: Direction | None,
    options: dict[str, Any],
) -> Attribution:
    if isinstance(cache, Attribution):
        if options or any(one is not None for one in (example, position, direction)):
            raise QueryError(f"this is the attribution of example {cache.example} already.")
        return cache
    if example is None or direction is None:
        raise QueryError(
            "say which example, position and direction: attribution(cache, 0, -1, vector)."
        )
    return asked_attribution(cache, example, position, direction, **options)


def _bars_of(found: Attribution, top: int, order: Order) -> tuple[list[str], np.ndarray]:
    """Return names and lengths of the bars, from above: parts, the rest of them, the remainder."""
    parts = found.values[:-1].numpy()
    # NaN is no size: it comes last
    size = np.nan_to_num(np.abs(parts), nan=-1.0, posinf=np.inf)
    largest = np.argsort(-size, kind="stable")
    own = largest[:top] if order == "size" else np.sort(largest[:top])
    rest = largest[top:]
    names = [found.names[at] for at in own.tolist()]
    values = parts[own].tolist()
    if len(rest):
        names.append(f"{len(rest):,} smaller parts")
        values.append(found.total - sum(values) - found.remainder)
    return [*names, REMAINDER], np.array([*values, found.remainder])


def _bars(axes: Axes, names: list[str], values: np.ndarray) -> None:
    grey = {REMAINDER} | {name for name in names if name.endswith(" smaller parts")}
    colours = [
        LEFT if name in grey else FOR if value > 0 else AGAINST
        for name, value in zip(names, values.tolist(), strict=True)
    ]
    drawn = axes.barh(range(len(names)), np.nan_to_num(values, posinf=0, neginf=0), color=colours)
    axes.bar_label(
        drawn, [f"{value:.3g}" for value in values.tolist()], padding=3, fontsize="small"
    )
    axes.set_yticks(range(len(names)), [drawn_text(n, letters=32) for n in names], fontsize="small")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=axes.xaxis.label.get_color(), lw=0.8)
    axes.margins(x=0.14)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("product with the direction")
