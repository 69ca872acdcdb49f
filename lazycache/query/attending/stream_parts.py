"""Which sites of a dataset add up to a residual stream, and where they do not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lazycache.capture.sites.architectures import families
from lazycache.capture.sites.names import SiteName, parse_site
from lazycache.catalog.run_info import info_of, is_transformed
from lazycache.errors import QueryError, SiteNotFoundError, nearest

if TYPE_CHECKING:
    from lazycache.cache.dataset.stored_sites import StoredSites
    from lazycache.capture.sites.family import Family

STREAMS = ("embed", "resid_in", "resid_mid", "resid_cross", "resid_out")
"""Kinds of site that are the residual stream itself, in the order of a layer."""

_ADDED = ("attn_out", "cross_attn_out", "mlp_out")
"""What a layer adds, in order."""

_BEFORE = {
    "embed": (),
    "resid_in": (),
    "resid_mid": _ADDED[:1],
    "resid_cross": _ADDED[:2],
    "resid_out": _ADDED,
}
"""Kind of stream to what its own layer has added to it."""


def stream_of(sites: StoredSites, at: str | None) -> str:
    """Return the site of a residual stream: the last that there is, or the one asked for.

    Raises:
        SiteNotFoundError: no such site.
        QueryError: it is no residual stream, or none is stored.
    """
    known = [key for key in sites.sites if (name := parse_site(key)) and _is_stream(name)]
    if at is None and known:
        return max(known, key=_rank)
    if at is None:
        raise QueryError(
            "no residual stream is stored, of which parts could be told: capture resid_out_L, with "
            "embed, attn_out_* (head_out_* for heads) and mlp_out_*."
        )
    if at not in sites.sites:
        raise SiteNotFoundError(f"there is no site {at!r}. {nearest(at, sites.sites)}")
    if at not in known:
        raise QueryError(
            f"{at!r} is not the residual stream, to which layers add. {nearest(at, known)}"
        )
    return at


def parts_of(sites: StoredSites, name: str, run: str, *, heads: bool) -> list[str]:
    """Return the sites that were added up to a stream, in that order, as far as they are there.

    Args:
        sites: What there is.
        name: The stream, as `stream_of` gives it.
        run: Name of the run whose rows are meant.
        heads: Whether `head_out_L` is wanted before `attn_out_L`, of which the bias is left then.

    Raises:
        QueryError: the model normalises the stream after it was added to.
    """
    stream = parse_site(name)
    assert stream is not None, "checked when it was named"
    sandwich = _checked_to_add_up(sites, stream, run, heads=heads)
    here = {key for key in alike(sites, name, run) if not (sandwich and "head_out_" in key)}
    return _parts(stream, here, heads=heads)


def alike(sites: StoredSites, stream: str, run: str) -> list[str]:
    """Return the sites with vectors of a stream's width, or one for each head, of its rows.

    Without what a function made of a site when it was captured.
    """
    table, (width,) = sites.sites[stream].table, sites.sites[stream].shape[-1:]
    return [
        key
        for key, spec in sites.sites.items()
        if spec.table == table
        and spec.shape[-1:] == (width,)
        and not is_transformed(info_of(sites.snapshot, run, key), key)
    ]


def _is_stream(name: SiteName) -> bool:
    return name.kind in STREAMS and name.head is None and not name.gradient


def _rank(site: str) -> tuple[bool, int, int]:
    """Order streams as they are met; of two stacks the decoder's come last."""
    name = parse_site(site)
    assert name is not None, "one of the streams"
    layer = -1 if name.layer is None else name.layer
    return (name.prefix != "encoder.", layer, STREAMS.index(name.kind))


def _checked_to_add_up(sites: StoredSites, stream: SiteName, run: str, *, heads: bool) -> bool:
    """Return whether the sum of heads is normalised before it is added, as far as it is known."""
    sandwich = False
    for family in _families(info_of(sites.snapshot, run, str(stream)), stream.prefix):
        if family.attn_norm is not None or family.mlp_norm is not None:
            raise QueryError(
                f"{family.name} models normalise the stream after each layer has added to it, so "
                f"what was added does not add up to {stream}. Name components=[...] to have "
                "their products with the direction all the same; the remainder is what is left."
            )
        sandwich |= family.head_norm is not None
        if heads and sandwich:
            raise QueryError(
                f"{family.name} models normalise the sum of the heads before it is added, so "
                "single heads do not add up to the stream: heads=False."
            )
    return sandwich


def _families(info: Mapping[str, Any], prefix: str) -> list[Family]:
    """Return the families that a run says its model is of, with this prefix; none if it does not.

    What anybody may have written counts only where it is as we write it.
    """
    model = info.get("model")
    said = model.get("family") if isinstance(model, Mapping) else None
    names = said.split(", ") if isinstance(said, str) else []
    return [one for one in families() if one.name in names and one.prefix == prefix]


def _parts(stream: SiteName, here: set[str], *, heads: bool) -> list[str]:
    prefix = stream.prefix
    first = next((n for n in (f"{prefix}embed", f"{prefix}resid_in_0") if n in here), None)
    found = [] if first is None else [first]
    last = -1 if stream.layer is None else stream.layer
    for layer in range(last + 1):
        for kind in _ADDED if layer < last else _BEFORE[stream.kind]:
            site, of_heads = f"{prefix}{kind}_{layer}", f"{prefix}head_out_{layer}"
            if kind == "attn_out" and of_heads in here and (heads or site not in here):
                found.append(of_heads)
            if site in here:
                found.append(site)
    return found
