"""Which parts of a model wrote a direction into the residual stream: a product for each part.

As `logit_attrs` of TransformerLens: the stream is a sum, so that its product with a direction is
the sum of the products of what was added (Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from lazycache.capture.sites.names import parse_site
from lazycache.catalog.name_patterns import matching
from lazycache.catalog.natural import natural_key
from lazycache.catalog.run_info import info_of, subset_of
from lazycache.errors import QueryError, SiteNotFoundError, nearest
from lazycache.query.attending.attention_maps import check_id
from lazycache.query.attending.attributed import SHOWN, Attribution, exact_sum
from lazycache.query.attending.stream_parts import alike, parts_of, stream_of
from lazycache.types import EXAMPLES

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites
    from lazycache.cache.tensor.lazy_tensor import LazyTensor
    from lazycache.query.asked import Cache

Direction: TypeAlias = "torch.Tensor | LazyTensor | np.ndarray | Sequence[float]"
"""A vector of the width of the stream."""

Scale: TypeAlias = 'float | Literal["rms", "layer"] | None'
"""What the last norm divides the stream by: a number, or how to work it out."""


def attribute(
    cache: Cache,
    example: int,
    position: int | None,
    direction: Direction,
    *,
    components: Sequence[str] | None = None,
    at: str | None = None,
    heads: bool = False,
    scale: Scale = None,
    eps: float = 1e-5,
) -> Attribution:
    """Return what each part adds to a direction; see `ActivationCache.attribute`."""
    check_id(example)
    sites = _one(cache)
    name = stream_of(sites, at)
    row, run, place = _row(cache, sites, name, example, position)
    whole = _vector(sites, name, row)
    toward = _scaled(_vector_of(direction, whole), whole, scale, eps)
    chosen = (
        parts_of(sites, name, run, heads=heads)
        if components is None
        else (_chosen(alike(sites, name, run), components))
    )
    if heads and components is None and not any(_kind(one) == "head_out" for one in chosen):
        raise QueryError(
            f"no heads of the parts of {name} are known: capture head_out_* too (it is stored as "
            "z_*, which is smaller), or heads=False."
        )
    there = [one for one in chosen if sites.reader.covered(one, np.array([row]))[0]]
    names, values = [], []
    for part, value in _products(sites, there, run, row, toward):
        names.append(part)
        values.append(value)
    total = float(whole @ toward)
    return Attribution(names, values, total=total, site=name, example=int(example), position=place)


def _one(cache: Cache) -> StoredSites:
    if len(cache.datasets) != 1:
        raise QueryError(
            f"attribute() asks one dataset, and {len(cache.datasets)} are behind this cache: "
            "open the one with the example."
        )
    return cache.datasets[0]


def _row(
    cache: Cache, sites: StoredSites, name: str, example: int, position: int | None
) -> tuple[int, str, int | None]:
    """Return the row of a position of an example, its run, and the position.

    Raises:
        QueryError: there is no such, or several.
    """
    table = sites.sites[name].table
    own = "NULL" if table == EXAMPLES else "position"
    query = f"SELECT row, run, {own} AS place FROM {table} WHERE example = ? ORDER BY place"  # noqa: S608
    with closing(cache.sql(query, [example])) as result:
        found = result.fetchall()
    runs = sorted({run for _, run, _ in found})
    if len(runs) > 1:
        raise QueryError(
            f"{len(runs)} runs have an example {example}: choose one, "
            f'cache.where("run = {runs[0]!r}").attribute(...).'
        )
    if table == EXAMPLES and position is not None:
        raise QueryError(f"{name} has one row for each example: position=None.")
    kept = [one for one in found if position in (None, one[2])]
    if position is not None and position < 0:
        kept = found[position:][:1] if -position <= len(found) else []
    if position is None and table != EXAMPLES:
        raise QueryError(f"{name} has a row for each token: say which position.")
    if not kept:
        there = ", ".join(str(at) for _, _, at in found[:SHOWN]) or "none"
        raise QueryError(
            f"there is no row of example {example}, position {position}: of this example "
            f"{name} has the positions {there}."
        )
    row, run, place = kept[0]
    return row, run, place


def _vector(sites: StoredSites, name: str, row: int) -> torch.Tensor:
    """Return what a site has of a row: float64[*row]."""
    return sites.reader.read(name, np.array([row]))[0].to(torch.float64)


def _vector_of(direction: Any, stream: torch.Tensor) -> torch.Tensor:
    """Return a direction as float64[d_model].

    Raises:
        QueryError: it is no vector of this width.
    """
    if isinstance(direction, str) or (isinstance(direction, tuple) and "logits" in direction):
        raise QueryError(
            "a direction is a vector: the matrix that makes logits is not stored. For a token of "
            "Llama: model.lm_head.weight[token] * model.model.norm.weight, and scale='rms'."
        )
    load = getattr(direction, "load", None)
    found = direction if load is None else load()
    # numpy takes a list of numbers for float64, torch for float32
    value = found if isinstance(found, torch.Tensor) else torch.as_tensor(np.asarray(found))
    value = value.detach().cpu()
    if value.shape != stream.shape or value.is_complex():
        raise QueryError(
            f"the direction has the shape {list(value.shape)}; a row of the stream has "
            f"{list(stream.shape)}."
        )
    return value.to(torch.float64)


def _scaled(
    direction: torch.Tensor, stream: torch.Tensor, scale: object, eps: float
) -> torch.Tensor:
    """Return the direction as it is seen through the last norm, whose weight is the caller's."""
    if scale is None:
        return direction
    if scale == "rms":
        return direction / (stream.square().mean() + eps).sqrt()
    if scale == "layer":
        # that the stream is centred is the same as that the direction is
        deviation = (stream.var(correction=0) + eps).sqrt()
        return (direction - direction.mean()) / deviation
    if not isinstance(scale, int | float) or not scale:
        raise QueryError(f"scale={scale!r}: give 'rms', 'layer', a number that is not 0, or None.")
    return direction / scale


def _chosen(known: Sequence[str], components: Sequence[str]) -> list[str]:
    """Return the sites that names and patterns mean, each once.

    Raises:
        SiteNotFoundError: one means none that has vectors of the width of the stream.
    """
    found: dict[str, None] = {}
    for name in [components] if isinstance(components, str) else components:
        names = sorted(matching(name, known), key=natural_key)
        if not names:
            raise SiteNotFoundError(
                f"no site with rows of the stream's width fits {name!r}. {nearest(name, known)}"
            )
        found |= dict.fromkeys(names)
    # heads before the whole of their layer, so that of this the rest is told
    return sorted(found, key=lambda name: 0 if _kind(name) == "head_out" else 1)


def _kind(name: str) -> str | None:
    found = parse_site(name)
    return None if found is None else found.kind


def _products(
    sites: StoredSites, names: Sequence[str], run: str, row: int, toward: torch.Tensor
) -> Iterator[tuple[str, float]]:
    """Yield parts and their products; of heads each, then the rest of their layer's sum."""
    of_heads: dict[str, float] = {}
    for name in names:
        products = _vector(sites, name, row) @ toward
        if not products.ndim:
            heads = of_heads.get(name.replace("attn_out_", "head_out_"))
            rest = heads is not None and _kind(name) == "attn_out"
            yield (f"{name} (rest)" if rest else name), float(products) - (heads or 0.0)
            continue
        of_heads[name] = exact_sum(products.tolist())
        numbers = _head_numbers(sites, name, run) or range(len(products))
        for head, value in zip(numbers, products.tolist(), strict=True):
            yield f"{name.rpartition('_')[0]}_L{name.rpartition('_')[2]}H{head}", value


def _head_numbers(sites: StoredSites, name: str, run: str) -> tuple[int, ...] | None:
    """Return which heads of the model a site has; None: all."""
    source = name.replace("head_out_", "z_")
    return subset_of(info_of(sites.snapshot, run, source), source)
