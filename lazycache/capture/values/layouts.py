"""In which tiles the rows of which sites are to lie."""

from __future__ import annotations

from collections.abc import Mapping

from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.reduce import by_site, refuse_ragged
from lazycache.codec.tiles import tile_of

Layouts = str | Mapping[str, str] | None
"""What `layout=` takes: one layout for all sites that can have it, or one by name or pattern."""


def make_layouts(points: Mapping[str, HookPoint], layout: Layouts) -> dict[str, int]:
    """Return the units of a tile by site; sites of which rows are stored whole are left out.

    One layout for all leaves out attention patterns, whose rows differ in width.

    Raises:
        CaptureError: no layout; a pattern that fits no captured site, or two that fit the same;
            attention patterns that are named.

    Example:
        >>> make_layouts({"0:out": HookPoint("0", "out")}, {"0": "tile:64"})
        {'0:out': 64}
    """
    if isinstance(layout, str):
        tile = tile_of(layout)
        return {} if tile is None else dict.fromkeys(points, tile)
    tiles = {name: tile_of(said) for name, said in by_site("layout", layout, points).items()}
    found = {name: tile for name, tile in tiles.items() if tile is not None}
    for name in found:
        refuse_ragged("layout", name, points[name])
    return found
