"""How alike layers are as representations: a matrix of sites by sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.cache.selecting.plan import as_array
from lazycache.cache.selecting.sampling import places
from lazycache.errors import MemoryBudgetError, QueryError
from lazycache.pictures.picture import Picture, new_figure
from lazycache.pictures.plain_labels import drawn_text, every, layer_labels
from lazycache.query.asked import tensor_of
from lazycache.query.comparing.paired_rows import paired_rows
from lazycache.query.comparing.representations import similarity as of_two

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.asked import Params
    from lazycache.query.comparing.representations import Likeness

ROWS = 2048
"""Rows that are compared, by chance."""

MOST_BYTES = 4 << 30
"""Values of all sites that may be held, in float32."""

BLOCK_ROWS = 256
"""Rows of the products of all rows that are in memory at a time."""

WRITTEN = 10
"""Sites of which each number is written into its place."""

TICKS = 16
"""Layers that are labelled, at most."""

_LIGHT = 0.6
"""From here on the colour is light, and writing on it dark."""


def similarity(
    cache: ActivationCache,
    sites: str | Sequence[str] = "resid_out_*",
    *,
    metric: Likeness = "cka",
    rows: int | None = ROWS,
    seed: int = 0,
    where: str | None = None,
    params: Params = None,
) -> Picture:
    """Draw how alike each two of some sites are, from 0 to 1: layer by layer.

    Of a sample of rows, the same for all sites; the title says how many. A sample of fewer rows
    than units makes sites look more alike than they are: take some times as many.
    A few units that are very large decide the CKA of a residual stream, mostly at the first token:
    `where="position > 0"` leaves it out.

    Args:
        cache: Where the sites are.
        sites: A pattern of names, or several.
        metric: `"cka"`, `"svcca"` or `"procrustes"`, as `cache.similarity`.
        rows: How many, at most; None for all of them, which is slow.
        seed: Which rows these are: the same for the same seed.
        where: A condition in SQL on the rows.
        params: Values for its parameters.

    `.values["similarity"]` is float64[sites, sites]. Rows in which a value of any site is not
    finite are left out.

    Cost: reads the rows of the sample once. With CKA, work grows with the square of the rows and
    with the sites; 30 sites of 576 units and 2048 rows take some seconds. Other metrics, and all
    rows, are `cache.similarity` for each two sites. Memory: the sample in float32.

    Raises:
        SiteNotFoundError: no site fits; names the nearest.
        QueryError: sites have different rows, or no spread; fewer than two rows are finite.
        MemoryBudgetError: the sample needs more than 4 GiB.
        CaptureError: matplotlib is not installed.

    Example:
        >>> from lazycache.samples import pattern_cache
        >>> picture = similarity(pattern_cache(), ["z_0", "head_out_0"], rows=None)
        >>> picture.values["similarity"].round(3).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    patterns = [sites] if isinstance(sites, str) else list(sites)
    names = cache.keys(*patterns)
    found = [tensor_of(cache, name, where=where, params=params).to("cpu") for name in names]
    if rows is None:
        matrix, said = _pairs(cache, found, metric), "all rows"
    else:
        drawn, of = _sample(found, rows, seed)
        said = f"{len(drawn[0]):,} of {of:,} rows" if len(drawn[0]) < of else f"{of:,} rows"
        matrix = _cka(drawn, names) if metric == "cka" else _pairs(cache, drawn, metric)
    title = f"{_METRICS.get(metric, metric)} of {len(names)} sites, {said}"
    return _drawn(names, matrix, title)


_METRICS = {"cka": "linear CKA", "svcca": "SVCCA", "procrustes": "Procrustes similarity"}


def _pairs(
    cache: ActivationCache, found: Sequence[LazyTensor | torch.Tensor], metric: Likeness
) -> np.ndarray:
    """Return what `cache.similarity` says of each two: float64[sites, sites]."""
    matrix = np.eye(len(found))
    for i, one in enumerate(found):
        for j, two in enumerate(found[:i]):
            matrix[i, j] = matrix[j, i] = of_two(cache, one, two, metric)
    if len(found) == 1:
        matrix[0, 0] = of_two(cache, found[0], found[0], metric)
    return matrix


def _sample(found: Sequence[LazyTensor], rows: int, seed: int) -> tuple[list[torch.Tensor], int]:
    """Return the same rows of all sites, float32[rows, units], and of how many they are.

    Raises:
        QueryError: sites have different rows.
        MemoryBudgetError: they are too large.
    """
    paired = [_in_order(found[0], x) for x in found]
    count = len(paired[0])
    chosen = places(count, min(rows, count), seed=seed)
    need = 4 * len(chosen) * sum(math.prod(x.row_shape) for x in found)
    if need > MOST_BYTES:
        raise MemoryBudgetError(
            f"{len(chosen):,} rows of {len(found)} sites need {need:,} bytes in memory, "
            f"{MOST_BYTES:,} are allowed: take fewer, rows={len(chosen) // 4}, or fewer sites."
        )
    drawn = [
        x.values_of(numbers[chosen]).reshape(len(chosen), -1).float()
        for x, numbers in zip(found, paired, strict=True)
    ]
    whole = torch.stack([x.isfinite().all(1) for x in drawn]).all(0)
    return [x[whole] for x in drawn] if not bool(whole.all()) else drawn, count


def _in_order(first: LazyTensor, x: LazyTensor) -> np.ndarray:
    """Return the rows of a site that go with those of the first, in the order of these."""
    mine, other = map(as_array, paired_rows(first, x))
    return np.asarray(other)[np.argsort(mine, kind="stable")]


def _cka(drawn: Sequence[torch.Tensor], names: Sequence[str]) -> np.ndarray:
    """Return linear CKA of each two: |A'B|^2 / (|A'A| |B'B|) as products of all rows with all.

    |A'B|^2 is the sum of AA' times BB', so that of each site a product is worked out once, not of
    each two; in blocks of rows, of which those behind the diagonal count twice.

    Raises:
        QueryError: a site has no spread.
    """
    centred = [_centred(x, name) for x, name in zip(drawn, names, strict=True)]
    total = torch.zeros(len(centred), len(centred), dtype=torch.float64)
    rows = len(centred[0])
    for start in range(0, rows, BLOCK_ROWS):
        stop = min(rows, start + BLOCK_ROWS)
        square = torch.stack([(x[start:stop] @ x[start:stop].T).flatten() for x in centred])
        total += (square @ square.T).double()
        if stop < rows:
            right = torch.stack([(x[start:stop] @ x[stop:].T).flatten() for x in centred])
            total += 2 * (right @ right.T).double()
    own = total.diagonal().sqrt()
    matrix: np.ndarray = (total / (own[:, None] * own)).clamp(0, 1).numpy()
    return matrix


def _centred(x: torch.Tensor, name: str) -> torch.Tensor:
    """Return rows around their mean, of unit length together: products neither over- nor underflow.

    Raises:
        QueryError: fewer than two rows, or all are alike.
    """
    if len(x) < 2:  # noqa: PLR2004  # of one row all sites are alike
        raise QueryError(f"similarity of {name}: {len(x)} rows with finite values; two at least.")
    wide = x.double()
    wide -= wide.mean(0)
    spread = float(wide.norm())
    if not 0 < spread < math.inf:
        raise QueryError(f"similarity: {name} has no spread to compare, all its rows are alike.")
    return (wide / spread).float()


def _drawn(names: Sequence[str], matrix: np.ndarray, title: str) -> Picture:
    side = min(5.6, max(2.6, 0.55 * len(names)))
    figure = new_figure(side + 1.4, side + 0.9)
    axes = figure.add_subplot()
    drawn = axes.imshow(
        matrix, cmap="viridis", vmin=0, vmax=1, origin="lower", interpolation="nearest"
    )
    axis, labels = layer_labels(names)
    at = list(every(len(names), most=TICKS))
    texts = [labels[place] for place in at]
    wide = max(map(len, texts)) > 3  # noqa: PLR2004  # letters
    axes.set_xticks(at, texts, fontsize="small", rotation=90 if wide else 0)
    axes.set_yticks(at, texts, fontsize="small")
    axes.set_xlabel(axis)
    axes.set_ylabel(axis)
    if len(names) <= WRITTEN:
        _written(axes, matrix)
    figure.colorbar(drawn, ax=axes, shrink=0.85)
    figure.suptitle(drawn_text(title), fontsize="medium")
    return Picture(figure, title=title, values={"similarity": matrix})


def _written(axes: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        colour = "black" if value > _LIGHT else "white"
        axes.text(
            column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize="small"
        )
