"""Attention of one example as the page shows it: small maps of all heads, and one head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lazycache.catalog.run_info import info_of, subset_of
from lazycache.errors import SiteNotFoundError
from lazycache.faces.heat_maps import LABELLED, heat_map
from lazycache.query.attending.pattern_sites import stored_patterns
from lazycache.query.passages import Passage

if TYPE_CHECKING:
    from lazycache.faces.html import Html
    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.query.attending.attention_maps import AttentionMap
    from lazycache.serve.examples_there import Name

SMALL, LARGE = 128, 480
"""Pixels of a map among others, and of one alone."""

MOST_HEADS = 64
"""Heads that are drawn."""


@dataclass(frozen=True, slots=True)
class Head:
    """A small map."""

    head: int
    """Its number in the model."""
    drawn: Html
    """SVG."""


@dataclass(frozen=True, slots=True)
class Alone:
    """One head: a map, and where one token looks."""

    head: int
    """Its number in the model."""
    drawn: Html
    """SVG, with the tokens beside it where they are few."""
    query: int
    """Position of the token that looks."""
    keys: Passage
    """The tokens, with how much it attends to each."""
    labelled: bool
    """Whether the map has the tokens beside it."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of one layer in one example."""

    site: str
    """Name of the site."""
    heads: list[Head]
    """All that were stored, up to 64."""
    left_out: int
    """Heads beyond."""
    alone: Alone | None
    """The head that was chosen."""


def patterns(cache: ActivationCache) -> list[str]:
    """Return the sites of attention patterns, in natural order."""
    there = set(stored_patterns(cache))
    return [name for name in cache if name in there]


def attention_of(
    cache: ActivationCache,
    name: Name,
    layer: str | int,
    head: int | None,
    query: int | None,
) -> Attention:
    """Return the attention of a layer in an example.

    Args:
        cache: The dataset.
        name: The example.
        layer: Site of the patterns, or number of the layer.
        head: One head that is shown alone; None: none is.
        query: Position of the token that looks, in that head; None: the last.

    Cost: reads the patterns of this example; two queries of the index.

    Raises:
        SiteNotFoundError: they were not stored, or there is no such head.
        QueryError: none of this example was captured.
    """
    # ids are those of a run: where there are several it has to be said which
    if len(cache.snapshot.runs) > 1:
        cache = cache.where("run = ?", [name.run])
    found = cache.attention(name.example, layer)
    count = found.values.shape[0] if _has_heads(found) else 1
    numbers = heads_of(cache, found.site, count)
    drawn = [
        Head(n, _unlabelled(numbers_of(found, i), n, SMALL))
        for i, n in enumerate(numbers[:MOST_HEADS])
    ]
    alone = None
    if head is not None:
        if head not in numbers:
            there = ", ".join(map(str, numbers))
            raise SiteNotFoundError(f"there is no head {head} in {found.site}. There are: {there}.")
        alone = _alone(found, numbers_of(found, numbers.index(head)), head, query)
    return Attention(found.site, drawn, count - len(drawn), alone)


def _has_heads(found: AttentionMap) -> bool:
    return found.values.ndim == 3  # noqa: PLR2004  # heads, queries and keys


def numbers_of(found: AttentionMap, at: int) -> np.ndarray:
    """Return the attention of a head, by its place, as float32[query, key], NaN as 0."""
    # one after the other: all heads of a long example are large in float32
    values = found.values[at] if _has_heads(found) else found.values
    wide: np.ndarray = values.detach().cpu().to(torch.float32).numpy()
    return np.where(np.isnan(wide), 0, wide)  # as nothing: a picture has no colour for it


def heads_of(cache: ActivationCache, site: str, count: int) -> list[int]:
    """Return the numbers of the heads of a site in the model, where only some were stored too."""
    for run in cache.snapshot.runs:
        stored = subset_of(info_of(cache.snapshot, run, site), site)
        if stored is not None and len(stored) == count:
            return list(stored)
    return list(range(count))


def _unlabelled(values: np.ndarray, head: int, side: int) -> Html:
    down, across = ([None] * size for size in values.shape)
    title = f"head {head}"
    return heat_map(values, queries=down, keys=across, title=title, labels=False, side=side)


def _alone(found: AttentionMap, values: np.ndarray, head: int, query: int | None) -> Alone:
    labelled = max(values.shape) <= LABELLED
    row = _row_of(found, query)
    at = int(found.positions[row])
    looks = values[row].astype(np.float64)
    keys = Passage(
        found.example,
        np.arange(len(looks)),
        list(range(len(looks))),
        list(found.tokens),
        looks.tolist(),
        at if at < len(looks) else None,
        (0, 0),
    )
    drawn = _labelled(found, values, head) if labelled else _unlabelled(values, head, LARGE)
    return Alone(head, drawn, at, keys, labelled)


def _labelled(found: AttentionMap, values: np.ndarray, head: int) -> Html:
    queries = zip(found.queries, found.positions.tolist(), strict=True)
    return heat_map(
        values,
        queries=[_told(token, position) for token, position in queries],
        keys=[_told(token, position) for position, token in enumerate(found.tokens)],
        title=f"head {head}",
        hover=True,
    )


def _row_of(found: AttentionMap, query: int | None) -> int:
    """Return which row of the values is that of a position: the last, where there is none."""
    places = [] if query is None else np.flatnonzero(found.positions == query).tolist()
    return places[0] if places else len(found.positions) - 1


def _told(token: str | None, position: int) -> str:
    return str(position) if token is None else token
