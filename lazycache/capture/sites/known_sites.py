"""The canonical sites that one model has, and the other names that they go by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lazycache.capture.sites.architectures import Located, locate
from lazycache.capture.sites.names import HEAD_SITES, HookPoint, SiteName
from lazycache.capture.sites.projection import BoundProjection, bind_projection


@dataclass(frozen=True, slots=True, eq=False)
class KnownSites:
    """What the tables of families say of one model."""

    stacks: tuple[Located, ...]
    """Its stacks of layers; none if its family is not known."""
    names: dict[str, SiteName]
    """Canonical name to the same taken apart, in the order of the forward pass."""
    points: dict[str, HookPoint]
    """Canonical name to where it is; of `head_out` to where its `z` is."""
    projections: dict[str, BoundProjection]
    """Name of each `head_out` to its projection."""

    def aliases(self) -> dict[str, str]:
        """Return other names and what they mean: `values_L1` and each head, `z_L1H3`.

        Cost: as many names as the model has heads, six times.
        """
        other: dict[str, str] = {}
        heads = {s.family.prefix: s.heads.heads for s in self.stacks if s.heads is not None}
        for name, site in self.names.items():
            if site.kind in HEAD_SITES:
                headed = f"{site.prefix}{site.kind}_L{site.layer}"
                other[headed] = name
                other |= {f"{headed}H{h}": name for h in range(heads.get(site.prefix, 0))}
            if site.kind == "logits":
                other |= {f"{s.family.prefix}logits": name for s in self.stacks if s.family.prefix}
        return other


def known_sites(model: nn.Module) -> KnownSites:
    """Find the canonical sites whose modules this model really has: `BertModel` has no logits.

    Example:
        >>> known_sites(nn.Linear(2, 2)).names
        {}
    """
    stacks = locate(model)
    known = KnownSites(stacks, {}, {}, {})
    modules = {path for path, _ in model.named_modules(remove_duplicate=False)} if stacks else set()
    for stack in stacks:
        for site in stack.sites():
            _add(known, stack, site, modules)
    return known


def _add(known: KnownSites, stack: Located, site: SiteName, modules: set[str]) -> None:
    name, point = str(site), stack.point(site)
    if point.path not in modules:
        return
    if site.kind == "head_out":
        assert site.layer is not None, "head_out is a site of a layer"
        bound = bind_projection(stack, site.layer)
        if bound.path not in modules:
            return
        known.projections[name] = bound
    known.names[name], known.points[name] = site, point
