"""What can be captured from a model, on the terminal: a line per site, and what they add up to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from lazycache.capture.sites.names import parse_site
from lazycache.capture.sites.site_info import Cost, SiteInfo, total
from lazycache.views.documents import print_lines
from lazycache.views.render import console, counted, table


def print_sites(sites: Sequence[SiteInfo], *, json: bool = False) -> None:
    """Print the sites of a model: names, modules, shapes, bytes, and the sums; JSON has no sums."""
    if json:
        print_lines(map(_document, sites))
        return
    rows = [(s.name, str(s.point), row_text(s.shape), s.row_bytes, s.note) for s in sites]
    console.print(table(["site", "module", "row", "bytes per row", ""], rows))
    for line in sums(sites):
        console.print(line, markup=False)


def _document(site: SiteInfo) -> dict[str, object]:
    return {
        "site": site.name,
        "module": str(site.point),
        "shape": None if site.shape is None else list(site.shape),
        "dtype": site.dtype,
        "row_bytes": site.row_bytes,
        "note": site.note,
    }


def row_text(shape: tuple[int, ...] | None) -> str:
    """Show the shape of a row; what is as wide as the row has keys says so.

    Example:
        >>> row_text((12, -1)), row_text((384,)), row_text(None)
        ('[12, keys]', '[384]', '-')
    """
    if shape is None:
        return "-"
    return f"[{', '.join('keys' if n < 0 else str(n) for n in shape)}]"


def sums(sites: Iterable[SiteInfo]) -> list[str]:
    """Say what the sites of a layer, and all of them, store per token.

    Example:
        >>> from lazycache.capture.sites.names import HookPoint
        >>> point = HookPoint("0", "out")
        >>> sums([SiteInfo("embed", point, (4,), "float32", 16),
        ...       SiteInfo("pattern_0", point, (2, -1), "float32", 8)])
        ['a layer: 8 bytes for each key', 'all 2 sites: 16 bytes per row and 8 for each key']
    """
    layers: dict[str, list[SiteInfo]] = defaultdict(list)
    known = [site for site in sites if site.shape is not None]
    for site in known:
        name = parse_site(site.name)
        if name is not None and name.layer is not None:
            layers[f"{name.prefix}{name.layer}"].append(site)
    costs = {total(layer) for layer in layers.values()}
    lines = [f"a layer: {_cost(cost)}" for cost in sorted(costs, key=lambda cost: cost.row_bytes)]
    return [*lines, f"all {counted(len(known), 'site')}: {_cost(total(known))}"] if known else []


def _cost(cost: Cost) -> str:
    rows = f"{cost.row_bytes:,} bytes per row" if cost.row_bytes or not cost.key_bytes else ""
    keys = f"{cost.key_bytes:,} bytes for each key" if cost.key_bytes else ""
    return " and ".join(filter(None, (rows, keys.replace(" bytes", "", 1) if rows else keys)))
