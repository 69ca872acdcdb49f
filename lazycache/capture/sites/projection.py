"""The matrices from which `head_out` is computed on read: found, checked, copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lazycache.capture.sites.architectures import Located, submodule
from lazycache.capture.sites.heads import HeadShape
from lazycache.errors import CaptureError

_MATRIX = 2


@dataclass(frozen=True, slots=True)
class BoundProjection:
    """The output projection of one layer of one model."""

    path: str
    """Module path of the projection."""
    transposed: bool
    """Whether its weight is [in, out], not [out, in] as that of nn.Linear."""
    shape: HeadShape
    """The heads that it takes to the residual stream."""


def bind_projection(located: Located, layer: int) -> BoundProjection:
    """Say where the projection of a layer is; the family must have one, the model heads."""
    projection = located.family.projection
    assert projection is not None, "head_out is a site of families with a projection only"
    assert located.heads is not None, "head_out is a site of models with known heads only"
    path = located.path(projection.module, layer=layer)
    return BoundProjection(path, projection.transposed, located.heads)


def projection_weight(model: nn.Module, bound: BoundProjection) -> torch.Tensor:
    """Copy the matrix of a projection to the CPU, as [heads, d_head, d_model].

    `head_out` of a row is `einsum("hd,hdm->hm", z, W)`; its sum over heads and the bias of the
    projection are what the projection returns.

    Raises:
        CaptureError: the matrix is not there in the open: quantised, an adapter beside it
            (LoRA), spread over devices, not loaded.

    Example:
        >>> bound = BoundProjection("0", False, HeadShape(heads=2, kv_heads=2, d_head=3))
        >>> tuple(projection_weight(nn.Sequential(nn.Linear(6, 8)), bound).shape)
        (2, 3, 8)
    """
    weight = check_projection(model, bound)
    rows = weight if bound.transposed else weight.T
    shape = (bound.shape.heads, bound.shape.d_head, -1)
    return rows.reshape(shape).to("cpu", copy=True).contiguous()


def check_projection(model: nn.Module, bound: BoundProjection) -> torch.Tensor:
    """Return the matrix of a projection as the model has it, if it is there in the open.

    Cost: reads nothing of it.

    Raises:
        CaptureError: see `projection_weight`.

    Example:
        >>> bound = BoundProjection("0", False, HeadShape(heads=2, kv_heads=2, d_head=3))
        >>> tuple(check_projection(nn.Sequential(nn.Linear(6, 8)), bound).shape)
        (8, 6)
    """
    module = submodule(model, bound.path)
    weight = _weight(module)
    problem = _problem(weight, bound)
    if weight is None or problem is not None:
        raise CaptureError(
            f"head_out is computed from z and the weight of {bound.path!r} "
            f"({type(module).__name__}), but that {problem}. Capture z and attn_out instead (of "
            "'*' too: name the sites), or the model with that weight in the open."
        )
    return weight


class Unchanged:
    """Watches that projections stay what they were: a run keeps one matrix for all its rows.

    Sees writes that torch counts (optimisers, in-place operations) and new tensors; not those
    through `.data`.

    Example:
        >>> model = nn.Sequential(nn.Linear(6, 8))
        >>> bound = BoundProjection("0", False, HeadShape(heads=2, kv_heads=2, d_head=3))
        >>> Unchanged(model, {"head_out_0.weight": bound}).check()
    """

    def __init__(self, model: nn.Module, projections: Mapping[str, BoundProjection]) -> None:
        self._model = model
        self._projections = projections
        self._before = {name: self._state(bound) for name, bound in projections.items()}

    def check(self) -> None:
        """Refuse to go on after a change.

        Raises:
            CaptureError: names the projection.
        """
        for name, bound in self._projections.items():
            if self._state(bound) != self._before[name]:
                raise CaptureError(
                    f"The weight of {bound.path!r} changed while {name.removesuffix('.weight')} "
                    "was captured, which is computed on read with one matrix per run. Capture z "
                    "and attn_out instead, or begin a run for each state of the model: run='name'."
                )

    def _state(self, bound: BoundProjection) -> tuple[int, int]:
        weight = check_projection(self._model, bound)
        # tensors that were made in inference mode count no writes
        return weight.data_ptr(), 0 if weight.is_inference() else weight._version  # noqa: SLF001


def _weight(module: nn.Module | None) -> torch.Tensor | None:
    """Return the matrix that a module multiplies by, if that is all that it does."""
    # an adapter such as LoRA wraps the layer, and its `weight` is not all that it computes
    plain = isinstance(module, nn.Linear) or not (module is None or list(module.children()))
    weight = getattr(module, "weight", None) if plain else None
    return weight.detach() if isinstance(weight, torch.Tensor) else None


def _problem(weight: torch.Tensor | None, bound: BoundProjection) -> str | None:
    """Say what keeps the matrix from being read; None if nothing."""
    if weight is None:
        return "has no weight of its own"
    units = bound.shape.heads * bound.shape.d_head
    problems = {
        # parameters lose their class when they are detached; tensors of other libraries do not
        f"is of type {type(weight).__name__}": type(weight) is not torch.Tensor,
        f"is quantised ({str(weight.dtype).removeprefix('torch.')})": (
            not weight.is_floating_point() or weight.itemsize == 1
        ),
        "is not loaded (device meta)": weight.is_meta,
        f"has the shape {list(weight.shape)}, where heads have {units} units": (
            weight.ndim != _MATRIX or weight.shape[0 if bound.transposed else 1] != units
        ),
    }
    return next((problem for problem, there in problems.items() if there), None)
