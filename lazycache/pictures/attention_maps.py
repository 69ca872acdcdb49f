"""What tokens attend to: one head large, with its tokens, or all heads of a layer side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lazycache.catalog.run_info import info_of, subset_of
from lazycache.errors import QueryError
from lazycache.pictures.picture import Picture, new_figure, part_of_matplotlib
from lazycache.pictures.plain_labels import drawn_text, drawn_token, every
from lazycache.query.attending.attention_maps import AttentionMap
from lazycache.query.attending.attention_maps import attention as asked_attention

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.attending.pattern_sites import Layer

LABELLED = 40
"""Tokens of an axis that are all labelled; of more, some positions are."""

TICKS = 12
"""Positions that are labelled then, at most."""

MOST_HEADS = 144
"""Heads of one picture."""

_MATRICES = 3
"""Dimensions of several heads."""


def attention(
    cache: ActivationCache | AttentionMap,
    example: int | None = None,
    layer: Layer | None = None,
    head: int | None = None,
    *,
    window: tuple[int, int] | None = None,
) -> Picture:
    """Draw what each token of an example attends to in one head: queries down, keys to the right.

    Colour is the square root of the probability, so that small ones can be seen; the bar beside
    it says which colour is which number. What a causal model cannot see is left white. Up to 40
    tokens are labelled, longer examples by position.

    Args:
        cache: Where the pattern is stored; or what `cache.attention(...)` gave, then without more
            than `head`.
        example: Its id, as the column `example` of SQL has it.
        layer: Number of a layer, negative from the last, or a name: `pattern_3`, `pattern_L3H0`.
        head: Number of the head; None only where there is one.
        window: Only queries and keys from a position up to another one, `(0, 40)`.

    `.values["attention"]` is float32[query, key], of the window.

    Cost: as `cache.attention`: the rows of this example and head.

    Raises:
        QueryError: no such example, several heads and none is named, or an empty window.
        SiteNotFoundError: the pattern is not stored.
        CaptureError: matplotlib is not installed.

    Example:
        >>> from lazycache.samples import pattern_cache
        >>> attention(pattern_cache(), example=1, layer=0, head=0)
        Picture('pattern_0 head 0, example 1', 4.2 x 3.4 inches)
    """
    found = _asked(cache, example, layer, head)
    values = _heads(found)
    place = _place(found, head, len(values))
    shown = found.head if found.head is not None else head or 0
    title = f"{found.site} head {shown}, example {found.example}"
    rows, columns = _within(found, window)
    one = values[place][np.ix_(rows, columns)]
    # an example of one token is a picture, too
    side = min(6.4, 1.8 + 0.15 * max(*one.shape, 9))
    # a few queries of many keys are a band, not a square
    tall = side if one.shape[0] == one.shape[1] else min(side, 1.9 + 0.15 * len(one))
    figure = new_figure(side + 1.05, tall + 0.25)
    axes = figure.add_subplot()
    drawn = _map(axes, one, most=_most(one))
    _labelled(axes.yaxis, [found.queries[at] for at in rows], found.positions[rows].tolist())
    _labelled(axes.xaxis, [found.tokens[at] for at in columns], columns.tolist())
    axes.set_ylabel("query")
    axes.set_xlabel("key")
    axes.set_title(drawn_text(title), fontsize="medium")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="probability")
    return Picture(figure, title=title, values={"attention": one})


def heads(
    cache: ActivationCache | AttentionMap, example: int | None = None, layer: Layer | None = None
) -> Picture:
    """Draw all heads of a layer for one example, side by side and in the same colours.

    Args:
        cache: Where the pattern is stored; or what `cache.attention(...)` gave, without more.
        example: Its id, as the column `example` of SQL has it.
        layer: Number of a layer, negative from the last, or a name such as `pattern_3`.

    `.values["attention"]` is float32[heads, query, key]. Colours as in `attention`.

    Cost: as `cache.attention`: the rows of this example.

    Raises:
        QueryError: no such example, or more than 144 heads.
        SiteNotFoundError: the pattern is not stored.
        CaptureError: matplotlib is not installed.

    Example:
        >>> from lazycache.samples import pattern_cache
        >>> heads(pattern_cache(), example=1, layer=0)
        Picture('pattern_0, 2 heads, example 1', 4.1 x 2.25 inches)
    """
    found = _asked(cache, example, layer, None)
    values = _heads(found)
    if len(values) > MOST_HEADS:
        raise QueryError(
            f"{found.site} has {len(values)} heads, {MOST_HEADS} are drawn at once: draw one, "
            "pictures.attention(cache, example, layer, head)."
        )
    title = f"{found.site}, {len(values)} heads, example {found.example}"
    columns = math.ceil(math.sqrt(len(values)))
    rows = math.ceil(len(values) / columns)
    size = max(0.9, min(1.6, 9 / columns))
    figure = new_figure(columns * size + 0.9, rows * size + 0.65)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    numbers = _numbers(cache, found, len(values))
    _fill(list(grid.flat), values, numbers)
    figure.suptitle(drawn_text(title), fontsize="medium")
    figure.supxlabel("key", fontsize="small")
    figure.supylabel("query", fontsize="small")
    figure.colorbar(grid.flat[0].images[0], ax=list(grid.flat), shrink=0.8, label="probability")
    return Picture(figure, title=title, values={"attention": values})


def _asked(
    cache: ActivationCache | AttentionMap,
    example: int | None,
    layer: Layer | None,
    head: int | None,
) -> AttentionMap:
    if isinstance(cache, AttentionMap):
        if example is not None or layer is not None:
            raise QueryError(f"this is the map of example {cache.example} of {cache.site} already.")
        found = cache
    elif example is None or layer is None:
        raise QueryError("say which example and which layer: attention(cache, 0, 3, head=1).")
    else:
        found = asked_attention(cache, example, layer, head)
    if not found.values.numel():
        raise QueryError(f"{found.site} of example {found.example} is empty: nothing to draw.")
    return found


def _heads(found: AttentionMap) -> np.ndarray:
    """Return float32[heads, query, key]."""
    wide = found.values.detach().cpu().to(torch.float32)
    values: np.ndarray = (wide if wide.ndim == _MATRICES else wide[None]).numpy()
    return values


def _place(found: AttentionMap, head: int | None, count: int) -> int:
    """Return which of the heads of a map is meant.

    Raises:
        QueryError: it has several and none is named, or not this one.
    """
    if found.head is not None or (head is None and count == 1):
        if head not in (None, found.head):
            raise QueryError(f"this is the map of head {found.head}, not of head {head}.")
        return 0
    if head is None:
        raise QueryError(
            f"{found.site} has {count} heads: say head=0, or draw them all, pictures.heads(...)."
        )
    if not 0 <= head < count:
        raise QueryError(f"there is no head {head} in {found.site}: heads are 0 to {count - 1}.")
    return head


def _within(found: AttentionMap, window: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return places of the queries and of the keys whose positions are in a window.

    Raises:
        QueryError: there are none.
    """
    keys = np.arange(len(found.tokens))
    if window is None:
        return np.arange(len(found.queries)), keys
    start, stop = window
    queries = np.flatnonzero((found.positions >= start) & (found.positions < stop))
    keys = keys[(keys >= start) & (keys < stop)]
    if not len(queries) or not len(keys):
        raise QueryError(
            f"window={window!r}: {found.site} of example {found.example} has queries at positions "
            f"{int(found.positions.min())} to {int(found.positions.max())}, and "
            f"{len(found.tokens)} keys."
        )
    return queries, keys


def _numbers(
    cache: ActivationCache | AttentionMap, found: AttentionMap, count: int
) -> tuple[int, ...]:
    """Return the numbers of the heads in the model, also where only some were stored."""
    if found.head is not None:
        return (found.head,)
    for one in () if isinstance(cache, AttentionMap) else cache.datasets:
        for run in one.snapshot.runs:
            stored = subset_of(info_of(one.snapshot, run, found.site), found.site)
            if stored is not None and len(stored) == count:
                return stored
    return tuple(range(count))


def _most(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _map(axes: Axes, values: np.ndarray, *, most: float) -> Any:
    colours = part_of_matplotlib("colors").PowerNorm(0.5, vmin=0, vmax=most)
    return axes.imshow(
        np.ma.masked_array(values, mask=_unseen(values)),
        cmap="viridis",
        norm=colours,
        aspect="equal" if values.shape[0] == values.shape[1] else "auto",
        interpolation="nearest" if max(values.shape) <= LABELLED else "auto",
        interpolation_stage="data",
    )


def _unseen(values: np.ndarray) -> np.ndarray:
    """Return what a causal model cannot see, all zero; nothing of a model that looks ahead."""
    rows, columns = values.shape
    ahead = np.arange(columns)[None] > np.arange(rows)[:, None]
    causal = rows == columns and not values[ahead].any()
    found: np.ndarray = (ahead & causal) | ~np.isfinite(values)
    return found


def _labelled(axis: Any, tokens: Sequence[str | None], positions: Sequence[int]) -> None:
    """Write tokens along an axis, of many only some positions."""
    upright = axis.axis_name == "x"
    if len(tokens) > LABELLED:
        places = every(len(tokens), most=TICKS)
        axis.set_ticks(list(places), [str(positions[at]) for at in places], fontsize="small")
        return
    texts = [
        str(at) if token is None else drawn_token(token)
        for token, at in zip(tokens, positions, strict=True)
    ]
    how = {"rotation": 90} if upright else {}
    axis.set_ticks(
        range(len(tokens)), texts, fontsize=8 if len(tokens) <= LABELLED / 2 else 7, **how
    )


def _fill(places: list[Axes], values: np.ndarray, numbers: tuple[int, ...]) -> None:
    most = _most(values)
    for axes, one, number in zip(places, values, numbers, strict=False):
        _map(axes, one, most=most)
        axes.set_title(f"{number}", fontsize="small", pad=2)
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in places[len(values) :]:
        axes.set_visible(False)
