"""`mix`: several loaders as one, whose batches have rows of each in the shares that were asked for.

Which loader a row comes from, and its place in the batch, are functions of the arguments and of
the number of the batch; so a mixture is resumed as a loader is, anywhere at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, cast

from lazycache.errors import SelectionError, nearest
from lazycache.feed.loader import Loader
from lazycache.feed.mixture import Mixture
from lazycache.feed.mixture_plan import UNTIL, MixturePlan
from lazycache.feed.ranks import Rank, whole_number


def mix(
    loaders: Mapping[Loader, float] | Sequence[Loader],
    batch_size: int,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    until: str = "first",
    source: str | None = None,
    drop_last: bool = False,
) -> Mixture:
    """Return batches that mix the rows of several loaders: of every `batch_size` rows, shares.

    Each loader keeps what it was asked for (its order, its `norm`, its `where`); its batch size
    does not matter. Of any number of rows that were handed out, each loader's are as many as its
    share says, within a row or two, whatever the sizes of the datasets. Inside a batch rows are in
    an order by `seed`.

    Args:
        loaders: By their weights, `{a: 0.7, b: 0.3}`; or a list, with `weights` or without.
        batch_size: Rows of a batch; the last one has the rest.
        weights: Positive numbers, of any sum; without, as many as each loader has rows: then
            all of them together are one shuffled dataset.
        seed: Chooses the places of rows in a batch.
        until: `"first"`: an epoch ends when a loader has no more rows for its share; no row comes
            twice. `"all"`: it ends when every row was handed out; smaller loaders begin again, in
            another order.
        source: Name of a column that tells of each row which loader it is of: int64, as counted in
            `loaders`. A batch is a dict then.
        drop_last: Leave out a last batch that is not full, and as many rows that all ranks have
            equally many batches.

    Cost: nothing is read now. Each loader reads ahead on its own threads; a batch is one more copy.

    Raises:
        SelectionError: fewer than one loader, one twice, or weights that do not fit; or the loaders
            hand out different things: sites, columns, shapes, dtypes, devices or ranks, names what.

    Example:
        >>> from lazycache.samples import small_cache
        >>> a, b = (small_cache()["resid_out_0"].loader(1, seed=seed) for seed in (0, 1))
        >>> mixture = mix({a: 2, b: 1}, 3, source="of")
        >>> [sorted(batch["of"].tolist()) for batch in mixture]
        [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    """
    sources, given = _weighted(loaders, weights)
    _check_same(sources)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise SelectionError(f"batch_size is a whole number of at least 1, not {batch_size!r}.")
    if until not in UNTIL:
        raise SelectionError(f"until is 'first' or 'all', not {until!r}. {nearest(until, UNTIL)}")
    _check_free(source, sources[0])
    cut = [_rows_of(one, drop_last=drop_last) for one in sources]
    if not all(cut):
        raise SelectionError(f"{sources[cut.index(0)]!r} has no row for each of its ranks.")
    plan = MixturePlan(
        rows=tuple(cut),
        weights=given or tuple(map(float, cut)),
        batch_size=batch_size,
        seed=whole_number("seed", seed),
        until=until,
        drop_last=bool(drop_last),
    )
    return Mixture(sources, plan, source=source, weights=given)


def _rows_of(one: Loader, *, drop_last: bool) -> int:
    """Return the rows of this rank, whatever the batches of the loader itself are."""
    if drop_last:
        return one.total_rows // one.world_size
    return Rank(one.rank, one.world_size).rows(one.total_rows)


def _weighted(
    loaders: object, weights: Sequence[float] | None
) -> tuple[tuple[Loader, ...], tuple[float, ...] | None]:
    """Return loaders and their weights, None where these are their rows."""
    if isinstance(loaders, Mapping):
        if weights is not None:
            raise SelectionError("weights are in the mapping already: mix({a: 0.7, b: 0.3}, ...).")
        weights = tuple(loaders.values())
    if not isinstance(loaders, (Mapping, Sequence)) or not loaders:
        raise SelectionError(
            "mix takes loaders: mix({a: 0.7, b: 0.3}, 4096), or mix([a, b], 4096)."
        )
    found = tuple(loaders)
    if odd := [one for one in found if not isinstance(one, Loader)]:
        raise SelectionError(f"mix takes loaders, x.loader(...), not {odd[0]!r}.")
    if len({id(one) for one in found}) < len(found):
        raise SelectionError("a loader is named twice: give it a larger weight, or make another.")
    if weights is None:
        return cast("tuple[Loader, ...]", found), None
    return cast("tuple[Loader, ...]", found), _checked(weights, len(found))


def _checked(weights: Sequence[float], count: int) -> tuple[float, ...]:
    given = tuple(weights)
    if len(given) != count:
        raise SelectionError(f"there are {len(given)} weights for {count} loaders.")
    for weight in given:
        if not isinstance(weight, (int, float)) or not (0 < weight < math.inf):
            raise SelectionError(f"a weight is a positive number, not {weight!r}.")
    return tuple(map(float, given))


def _check_same(loaders: Sequence[Loader]) -> None:
    """Check that loaders hand out the same things.

    Raises:
        SelectionError: two of them do not; names them and what differs.
    """
    for one, other in combinations(loaders, 2):
        for what, a, b in zip(_WHAT, _handed_out(one), _handed_out(other), strict=True):
            if a != b:
                raise SelectionError(
                    f"these loaders cannot be mixed: {what} {a!r} of {one!r}, {b!r} of {other!r}. "
                    "Ask both for the same, with dtype=, device= and columns= where these differ."
                )


_WHAT = (
    "sites",
    "keys of a batch",
    "columns",
    "shape of a row",
    "dtype",
    "device",
    "rank",
    "number of ranks",
)


def _handed_out(one: Loader) -> tuple[Any, ...]:
    ranks = (one.rank, one.world_size)
    return (
        one.sites,
        one.keys,
        one.column_dtypes,
        one.row_shape,
        one.dtype,
        one.device,
        *ranks,
    )


def _check_free(source: str | None, loader: Loader) -> None:
    if source is not None and not (isinstance(source, str) and source):
        raise SelectionError(f"source is the name of a column, not {source!r}.")
    if source in (*loader.keys, *loader.columns):
        raise SelectionError(f"{source!r} is a key of the batches already: choose another name.")
