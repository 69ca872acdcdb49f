"""What is known of a model's sites before anything runs: shapes and bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lazycache.capture.sites.architectures import Located, submodule
from lazycache.capture.sites.heads import first_int, model_width
from lazycache.capture.sites.known_sites import KnownSites, known_sites
from lazycache.capture.sites.modules import callable_paths, check_model
from lazycache.capture.sites.names import HookPoint, SiteName

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """What is known of a site before anything runs."""

    name: str
    """The name to ask for."""
    point: HookPoint
    """Where it is in the model."""
    shape: tuple[int, ...] | None
    """Shape of one row; -1 is as many as the row has keys. None where only a forward pass can
    tell."""
    dtype: str
    """What the parameters of the model are: the dtype that activations usually have."""
    row_bytes: int | None
    """Bytes that are stored of one row in that dtype: of a pattern for each key of the row, of
    `head_out` none. None where the shape is not known."""
    note: str = ""
    """What the numbers do not say."""

    @property
    def ragged(self) -> bool:
        """Whether rows are as wide as they have keys, and `row_bytes` counts one of them."""
        return self.shape is not None and -1 in self.shape


@dataclass(frozen=True, slots=True)
class Cost:
    """What some sites store per row of their table."""

    sites: int
    """How many sites."""
    row_bytes: int
    """Bytes of one row of all of them, patterns aside."""
    key_bytes: int
    """Bytes of their patterns, for each key of the row."""


def available(model: nn.Module) -> list[SiteInfo]:
    """List the canonical sites of a model, or its modules if its family is in no table.

    Reads the configuration and the modules, runs nothing. In the order of the forward pass.

    Example:
        >>> [site.name for site in available(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        ['0:out', '1:out']
    """
    check_model(model)
    known = known_sites(model)
    dtype, itemsize = _dtype(model)
    if not known.stacks:
        points = [HookPoint(path, "out") for path in callable_paths(model)]
        return [SiteInfo(str(point), point, None, dtype, None) for point in points]
    return [_info(model, name, known, dtype, itemsize) for name in known.names]


def total(sites: Iterable[SiteInfo]) -> Cost:
    """Add up what sites store per row; those whose shape is not known are left out.

    Example:
        >>> point = HookPoint("0", "out")
        >>> total([SiteInfo("embed", point, (4,), "float32", 16),
        ...        SiteInfo("pattern_0", point, (2, -1), "float32", 8)])
        Cost(sites=2, row_bytes=16, key_bytes=8)
    """
    known = [site for site in sites if site.row_bytes is not None]
    rows = sum(site.row_bytes or 0 for site in known if not site.ragged)
    keys = sum(site.row_bytes or 0 for site in known if site.ragged)
    return Cost(len(known), rows, keys)


def _dtype(model: nn.Module) -> tuple[str, int]:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return "float32", 4
    return str(parameter.dtype).removeprefix("torch."), parameter.dtype.itemsize


def _info(model: nn.Module, name: str, known: KnownSites, dtype: str, itemsize: int) -> SiteInfo:
    site, point = known.names[name], known.points[name]
    own = [stack for stack in known.stacks if stack.family.prefix == site.prefix]
    stack = (own or known.stacks)[-1]  # logits have no prefix: the decoder comes last
    shape = _shape(model, site, point, stack)
    size = None if shape is None else math.prod(abs(n) for n in shape) * itemsize
    if site.kind == "head_out":
        return SiteInfo(name, point, shape, dtype, 0, f"computed on read from {site.z}")
    note = "bytes for each key of the row" if shape is not None and -1 in shape else ""
    return SiteInfo(name, point, shape, dtype, size, note)


def _shape(
    model: nn.Module, site: SiteName, point: HookPoint, stack: Located
) -> tuple[int, ...] | None:
    """Shape of one row, from the configuration and the module that a site passes."""
    width = model_width(stack.config)
    if site.kind == "head_out":
        return None if stack.heads is None or width is None else (stack.heads.heads, width)
    if point.cut is not None:
        return point.cut.row
    own = ("mlp_act", "router", "logits")
    units = _units(submodule(model, point.path), site, point, stack) if site.kind in own else width
    return None if units is None else (units,)


def _units(
    module: nn.Module | None, site: SiteName, point: HookPoint, stack: Located
) -> int | None:
    """Units of a row that are not the stream's: what goes into or comes out of a matrix."""
    known = getattr(module, f"{point.side}_features", None)
    if isinstance(known, int):
        return known
    if site.kind == "logits":
        return first_int(stack.config, ("vocab_size",))
    weight = getattr(module, "weight", None)
    if site.kind == "router":
        return first_int(stack.config, _EXPERTS) if weight is None else int(weight.shape[0])
    # GPT-2's Conv1D keeps [in, out]
    return None if weight is None else int(weight.shape[0 if point.side == "in" else -1])
