"""Which family a model is of, and where in it each canonical site is.

The families are data (`families/`); here they are found in a given model, also inside wrappers
such as `DistributedDataParallel`, and users add their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

from torch import nn

from lazycache.capture.sites.families import FAMILIES
from lazycache.capture.sites.family import Family
from lazycache.capture.sites.family_check import check_family
from lazycache.capture.sites.heads import Cut, HeadShape, usual_shape
from lazycache.capture.sites.names import LAYER_SITES, HookPoint, SiteName, split_side
from lazycache.errors import CaptureError

_WRAPPED = ("module", "_orig_mod", "base_model.model", "_fsdp_wrapped_module", "_forward_module")
"""Where wrappers keep their model: DDP and DataParallel, torch.compile, PEFT, FSDP, Lightning."""

_registered: list[Family] = []
_lock = Lock()


@dataclass(frozen=True, slots=True)
class Located:
    """A family found in a given model."""

    family: Family
    """Its table."""
    root: str
    """The prefix under which wrappers keep the model, with its dot: `module.`, or nothing."""
    base: str
    """The prefix of the transformer proper, that of the root included: `module.model.`."""
    layers: int
    """How many layers there are."""
    config: Any
    """The configuration of the transformer proper."""
    heads: HeadShape | None
    """Its heads; None if the configuration does not say."""

    def path(self, template: str, *, layer: int | None) -> str:
        """Fill a template of the family."""
        base = self.base.removeprefix(self.root)
        return self.root + template.format(base=base, L=layer, last=self.layers - 1)

    def point(self, site: SiteName) -> HookPoint:
        """Return where a canonical site of `sites()` is; of `head_out` where its `z` is."""
        place = self.family.sites["z" if site.kind == "head_out" else site.kind]
        _, point = split_side(self.path(place.at, layer=site.layer))
        assert point is not None, "every template of the table names a side"
        cut = None if place.cut is None or self.heads is None else Cut(place.cut, self.heads)
        return dataclasses.replace(point, cut=cut, table=self.family.table)

    def sites(self) -> list[SiteName]:
        """All canonical sites that the table gives a place, a layer at a time.

        Sites of heads need the heads of the configuration, `head_out` also a projection.
        """
        places, prefix = self.family.sites, self.family.prefix
        kinds = {k for k, place in places.items() if place.cut is None or self.heads is not None}
        if "z" in kinds and self.family.projection is not None:
            kinds.add("head_out")
        per_layer = [kind for kind in LAYER_SITES if kind in kinds]
        layers = [SiteName(k, n, prefix) for n in range(self.layers) for k in per_layer]
        first = [SiteName("embed", None, prefix)] if "embed" in kinds else []
        last = [SiteName("final_norm", None, prefix)] if "final_norm" in kinds else []
        # the scores of a model are its decoder's: there is one such name
        logits = [SiteName("logits", None)] if "logits" in kinds else []
        return first + layers + last + logits


def families() -> tuple[Family, ...]:
    """Return all families in the order in which they are tried: registered ones come first."""
    with _lock:
        return (*reversed(_registered), *FAMILIES)


def locate(model: nn.Module) -> tuple[Located, ...]:
    """Find the stacks of layers of a model whose family is known; none if it is in no table.

    An encoder-decoder model has two. Wrappers are looked into.

    Example:
        >>> locate(nn.Linear(2, 2))
        ()
    """
    known = families()
    for root, inner in _unwrapped(model):
        found: dict[str, Located] = {}
        for family in known:
            located = _locate(inner, family, root)
            if located is not None:
                found.setdefault(family.prefix, located)
        if found:
            return tuple(found.values())
    return ()


def _unwrapped(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Give a model and, as long as it is a wrapper, what it wraps, with the prefix of each."""
    root = ""
    inner: nn.Module | None = model
    while inner is not None:
        yield root, inner
        steps = ((path, submodule(inner, path)) for path in _WRAPPED)
        path, inner = next((step for step in steps if step[1] is not None), ("", None))
        root += f"{path}."


def _locate(model: nn.Module, family: Family, root: str) -> Located | None:
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in family.model_types:
        return None
    for base in family.bases:
        layers = submodule(model, base + family.layers)
        if not isinstance(layers, nn.ModuleList | nn.Sequential) or not len(layers):
            continue
        if family.has is not None and not _has(model, base + family.has):
            continue
        own = _nearest_config(model, base)
        if _is_of(family, submodule(model, base.removesuffix(".")), own):
            heads = (family.head_shape or usual_shape)(own)
            return Located(family, root, root + base, len(layers), own, heads)
    return None


def _has(model: nn.Module, path: str) -> bool:
    """Say whether there is a module at a path, or another attribute of one."""
    parent, _, name = path.rpartition(".")
    module = submodule(model, parent)
    return module is not None and hasattr(module, name)


def _is_of(family: Family, transformer: Any, config: Any) -> bool:
    """Say whether a transformer of the right type is of this variant."""
    if any(getattr(config, name, None) != value for name, value in family.when.items()):
        return False
    for name in [] if family.has is None else family.has.split("."):
        transformer = getattr(transformer, name, None)
    return transformer is not None


def _nearest_config(model: nn.Module, base: str) -> Any:
    """Return the configuration of the transformer proper, if it has its own; else the model's.

    Of a model of text and images each part has one.
    """
    parts = base.split(".")[:-1]
    for n in range(len(parts), 0, -1):
        config = getattr(submodule(model, ".".join(parts[:n])), "config", None)
        if config is not None:
            return config
    return model.config


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path as `named_modules()` says it; None if there is none.

    Unlike `get_submodule` it goes by modules alone: wrappers pass attributes of their model on.

    Example:
        >>> submodule(nn.Sequential(nn.ReLU()), "0"), submodule(nn.Sequential(), "0")
        (ReLU(), None)
    """
    module: nn.Module | None = model
    for name in path.split(".") if path else ():
        module = None if module is None else dict(module.named_children()).get(name)
    return module


def register_architecture(family: Family, *, replace: bool = False) -> None:
    """Teach lazycache where a model of your own keeps the canonical sites.

    It is tried before the families that lazycache knows, for models with `config.model_type` in
    `family.model_types`, in this process. The types `Family`, `Place` and `Projection` are in
    `lazycache.capture.sites.family`. The same family again changes nothing.

    Args:
        family: Its table of sites.
        replace: Take the place of families that were registered for the same models before.

    Raises:
        CaptureError: a site or a cut that there is not, a template that cannot be filled, or a
            family for the same models that was registered before.

    Example:
        >>> from lazycache.capture.sites.family import Family, Place
        >>> register_architecture(Family(
        ...     name="toy", model_types=frozenset({"toy"}), bases=("",), layers="blocks",
        ...     sites={"resid_out": Place("{base}blocks.{L}:out")},
        ... ))
        >>> class Toy(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.config = type("Config", (), {"model_type": "toy"})
        ...         self.blocks = nn.ModuleList([nn.Linear(2, 2)])
        >>> from lazycache.capture.sites.site_info import available
        >>> [site.name for site in available(Toy())]
        ['resid_out_0']
    """
    check_family(family)
    with _lock:
        rivals = [known for known in _registered if _same_models(known, family)]
        if family in rivals:
            return
        if rivals and not replace:
            raise CaptureError(
                f"Family {family.name!r}: {rivals[0].name!r} was registered for "
                f"{', '.join(sorted(family.model_types & rivals[0].model_types))} before. Set "
                "`when` to tell them apart, or replace=True to have this one instead."
            )
        _registered[:] = [known for known in _registered if known not in rivals]
        _registered.append(family)


def _same_models(one: Family, other: Family) -> bool:
    return (
        bool(one.model_types & other.model_types)
        and one.prefix == other.prefix
        and (one.when, one.has) == (other.when, other.has)
    )
