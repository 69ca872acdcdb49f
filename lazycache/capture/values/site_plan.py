"""What is done to the tensor of one site before it leaves the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from lazycache.capture.sites.names import HookPoint, parse_site
from lazycache.capture.stack import Stack
from lazycache.capture.values.calls import Piece
from lazycache.capture.values.convert import cast, shares_memory
from lazycache.capture.values.patterns import fit_keys, ragged_rows
from lazycache.capture.values.placement import is_length_first, unit_widths
from lazycache.capture.values.reduce import Reduction, is_ragged, pooled, transformed
from lazycache.codec.dtypes import of_tensor
from lazycache.errors import CaptureError, UnsupportedDtypeError
from lazycache.types import EXAMPLES


@dataclass(frozen=True, slots=True, eq=False)
class SitePlan:
    """One site of a capture: where it is and what is kept of it, in each forward pass."""

    name: str
    """Name of the site."""
    point: HookPoint
    """Where it is."""
    widths: frozenset[int]
    """How many units a vector there may have; see `placement.unit_widths`."""
    reduction: Reduction
    """What is done to its rows."""
    dtype: torch.dtype | None
    """What floating-point values are cast to; None keeps them."""
    length_first: bool = False
    """Whether its values are [length, batch, ...]; see `placement.is_length_first`."""

    @property
    def is_gradient(self) -> bool:
        """Whether its values come in the backward pass."""
        return self.point.side.startswith("grad")

    @property
    def is_ragged(self) -> bool:
        """Whether its rows differ in width."""
        return is_ragged(self.point)

    @property
    def is_cross(self) -> bool:
        """Whether it is attention of the decoder to the tokens of the encoder."""
        site = parse_site(self.name)
        return site is not None and site.kind == "cross_pattern"


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the values of a site belong in one forward pass."""

    table: str
    """The table that has a row for each of them, before pooling."""
    stack: Stack
    """The stack of layers that they come from."""
    keys: Stack
    """The stack whose tokens attention probabilities are over."""
    kept: np.ndarray | None
    """Examples that are recorded, by their number in the batch; None is all."""


def make_plans(
    model: nn.Module,
    points: Mapping[str, HookPoint],
    reductions: Mapping[str, Reduction],
    dtype: torch.dtype | None,
) -> dict[str, SitePlan]:
    """Return what is done to each site."""
    return {
        name: SitePlan(
            name,
            point,
            unit_widths(model, point),
            reductions[name],
            dtype,
            is_length_first(model, point),
        )
        for name, point in points.items()
    }


def read_site(plan: SitePlan, values: torch.Tensor, place: Place) -> Piece:
    """Copy what is kept of a tensor, now: what the model does to it later is its own.

    Order: kept rows, transform, heads or units, pool, dtype, copy to the host.

    Cost: one gather on the device and one copy to the host.

    Raises:
        UnsupportedDtypeError: values that cannot be stored.
        CaptureError: values that the reductions of the site do not fit.
    """
    with torch.no_grad():
        values = values.detach()
        _check_storable(plan.name, values)
        if plan.is_ragged:
            return _read_ragged(plan, values, place)
        rows, table = _reduced(plan, values, place)
        # a function of the user may keep what it returns, and write into it
        source = values if plan.reduction.transform is None else rows
        rows, lost = cast(rows, plan.dtype, empty=place.stack.staging.empty)
        return _staged(Piece(table, rows, lost=lost), place, source=source)


def _reduced(plan: SitePlan, values: torch.Tensor, place: Place) -> tuple[torch.Tensor, str]:
    rows, reduction = _kept_rows(values, place), plan.reduction
    if reduction.transform is not None:
        if shares_memory(rows, values):
            rows = rows.clone()  # the function may write into it, and the model goes on with it
        rows = transformed(plan.name, rows, reduction.transform)
        _check_storable(plan.name, rows)
    if reduction.subset is not None:
        rows = reduction.subset.of(plan.name, rows)
    if reduction.pool is None or place.table == EXAMPLES:
        return rows, place.table
    return pooled(rows, _counts(plan.name, place), reduction.pool), EXAMPLES


def pool_piece(plan: SitePlan, piece: Piece, place: Place) -> Piece:
    """Pool rows that were kept as they are, if they are to be pooled, and cast what comes of it.

    Raises:
        CaptureError: an example has no row to pool.
    """
    pool = plan.reduction.pool
    if pool is None:
        return piece
    rows = pooled(piece.values, _counts(plan.name, place), pool)
    rows, lost = cast(rows, plan.dtype)
    return Piece(EXAMPLES, rows, lost=lost)


def _kept_rows(values: torch.Tensor, place: Place) -> torch.Tensor:
    if place.table != EXAMPLES:
        return place.stack.take(values)
    if place.kept is None:
        return values
    kept = place.stack.staging.send(torch.from_numpy(place.kept), values.device)
    return values.index_select(0, kept)


def _counts(name: str, place: Place) -> list[int]:
    counts = place.stack.counts()
    numbers = np.arange(len(counts)) if place.kept is None else place.kept
    empty = numbers[counts[numbers] == 0]
    if len(empty):
        raise CaptureError(
            f"{name}: example {empty[0]} of the batch has no kept row to pool. Choose positions "
            "that every example has, or leave it out with where=."
        )
    return [int(count) for count in counts[numbers]]


def _read_ragged(plan: SitePlan, values: torch.Tensor, place: Place) -> Piece:
    queries, keys = place.stack.rows, place.keys.rows
    if queries is None or keys is None:
        raise CaptureError(f"{plan.name}: attention is over tokens, and the model was given none.")
    subset = plan.reduction.subset
    if place.stack.grows:
        values = fit_keys(values, keys.real.shape[1])
    chosen = values if subset is None else subset.of(plan.name, values)
    empty = place.stack.staging.empty
    flat, widths = ragged_rows(plan.name, chosen, queries=queries.keep, keys=keys.real, empty=empty)
    flat, lost = cast(flat, plan.dtype, empty=empty)
    piece = Piece(place.table, flat, shape=(chosen.shape[1], -1), widths=widths, lost=lost)
    return _staged(piece, place, source=values)


def _check_storable(name: str, values: torch.Tensor) -> None:
    try:
        of_tensor(values)
    except UnsupportedDtypeError as exc:
        raise UnsupportedDtypeError(f"{name}: {exc}") from exc


def _staged(piece: Piece, place: Place, *, source: torch.Tensor) -> Piece:
    """Send what is on the device to the host."""
    staging = place.stack.staging
    values = staging.copy(piece.values, source=source)
    if piece.lost is None:
        return replace(piece, values=values.tensor, staged=(values,))
    lost = staging.copy(piece.lost, source=None)
    return replace(piece, values=values.tensor, lost=lost.tensor, staged=(values, lost))
