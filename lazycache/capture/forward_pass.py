"""A forward pass while it runs: what it was called with, and the values copied so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from lazycache.capture.device.staging import Staged
from lazycache.capture.inputs.annotation import Annotation
from lazycache.capture.inputs.columns import Scalar
from lazycache.capture.sites.heads import cut_heads
from lazycache.capture.stacks import Stacks
from lazycache.capture.values.calls import Piece, join_calls
from lazycache.capture.values.gradients import Awaited
from lazycache.capture.values.site_plan import Place, SitePlan, read_site
from lazycache.errors import CaptureError
from lazycache.types import SiteBlock


@dataclass(slots=True, eq=False, weakref_slot=True)
class ForwardPass:
    """One call of the whole model, in one thread."""

    stacks: Stacks
    """What runs in it, and which rows that gives."""
    annotation: Annotation
    """What the user said of it."""
    columns: Mapping[str, list[Scalar]]
    """User columns, one value per example."""
    awaited: Awaited
    """The gradients that come after it."""
    ids: list[int] = field(default_factory=list)
    """Ids of all its examples, once it is over."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often each site was met."""
    pieces: dict[str, dict[int, Piece]] = field(default_factory=dict)
    """The values of each site that was met, by call."""
    placed: dict[str, str] = field(default_factory=dict)
    """The table in which each site has its rows, before pooling and whatever the calls."""

    @property
    def batch(self) -> int:
        """How many examples the model was called with."""
        return self.stacks.main.inputs.batch

    @property
    def is_empty(self) -> bool:
        """Whether none of its examples is recorded."""
        kept = self.stacks.kept
        return kept is not None and not len(kept)

    def recorded_ids(self) -> list[int]:
        """Return the ids of the examples that are recorded."""
        kept = self.stacks.kept
        return self.ids if kept is None else [self.ids[n] for n in kept.tolist()]

    def take(
        self,
        plan: SitePlan,
        values: torch.Tensor,
        source: torch.Tensor | None,
        *,
        before: str | None,
    ) -> None:
        """Copy the kept rows of a site, now: what the model does to the tensor later is its own.

        Args:
            plan: The site.
            values: What passes there.
            source: What its module works on.
            before: The table in which earlier forward passes placed the site.

        Raises:
            UnsupportedDtypeError: values that cannot be stored.
            CaptureError: a shape that fits no table, or not what is done to the site.
        """
        place = self._meet(plan, values, source, before)
        if place is not None:
            call = self.calls[plan.name] - 1
            self.pieces.setdefault(plan.name, {})[call] = read_site(plan, values, place)

    def expect(
        self,
        plan: SitePlan,
        tensor: torch.Tensor,
        source: torch.Tensor | None,
        *,
        before: str | None,
    ) -> None:
        """Wait for the gradient of a tensor: its kept rows are copied when it comes.

        Args: as of `take`.

        Raises:
            CaptureError: it will have none, or a shape that fits no table.
        """
        cut = plan.point.cut
        shaped = tensor.detach() if cut is None else cut_heads(tensor.detach(), cut)
        place = self._meet(plan, shaped, source, before)
        if place is None:
            return
        pieces, call = self.pieces.setdefault(plan.name, {}), self.calls[plan.name] - 1

        def arrived(gradient: torch.Tensor) -> None:
            values = gradient if cut is None else cut_heads(gradient, cut)
            pieces[call] = read_site(plan, values, place)

        self.awaited.expect(plan.name, tensor, arrived)

    def promise(self, plan: SitePlan, *, before: str | None) -> None:
        """Wait for a gradient that `awaited.give` brings, whose shape is not known yet."""

        def arrived(gradient: torch.Tensor) -> None:
            self.take(plan, gradient, None, before=before)

        self.awaited.promise(plan.name, arrived)

    def _meet(
        self,
        plan: SitePlan,
        values: torch.Tensor,
        source: torch.Tensor | None,
        before: str | None,
    ) -> Place | None:
        """Count a call, and say where its values belong; None if nothing of it is kept."""
        place = self.stacks.place(plan, values, source, before=before)
        if place is None:
            return None
        call = self.calls[plan.name]
        self.calls[plan.name] += 1
        if plan.point.call not in (None, "*", call) or self.is_empty:
            return None
        self.placed[plan.name] = place.table
        return place

    def check_calls(self, plans: Iterable[SitePlan]) -> None:
        """Refuse a forward pass that did not meet each of the sites.

        Raises:
            CaptureError: names those that it never met, or not as often as was asked.
        """
        known = list(plans)
        silent = [
            plan.name
            for plan in known
            if not self.calls[plan.name] and not self.awaited.lacks(plan.name)
        ]
        if silent:
            raise CaptureError(
                f"The forward pass never called {_listed(silent)}: the module is not used for this "
                "input, or is called in a way that hooks do not see (its forward, another thread). "
                f"Leave it out: '!{silent[0]}' behind the other patterns."
            )
        for plan in known:
            asked, calls = plan.point.call, self.calls[plan.name]
            if isinstance(asked, int) and calls <= asked:
                raise CaptureError(
                    f"{plan.name}: call {asked} was asked for (they count from 0), but the module "
                    f"was called {calls} times. Ask for '@*' to have all calls there are."
                )

    def check_tables(self, before: Mapping[str, str]) -> None:
        """Refuse what two threads placed in two tables, when neither was the first.

        Raises:
            CaptureError: names the site and both tables.
        """
        for name, table in self.placed.items():
            if before.get(name, table) != table:
                raise CaptureError(
                    f"{name} gave rows of {table}, and in another forward pass rows of "
                    f"{before[name]}."
                )

    def blocks(
        self, plans: Mapping[str, SitePlan], before: Mapping[str, str]
    ) -> dict[str, SiteBlock]:
        """Return the values of each site, all calls together; `before` says its stored table.

        Raises:
            CaptureError: see `join_calls`.
        """
        return {
            name: join_calls(
                name,
                plans[name].point,
                [calls[call] for call in sorted(calls)],
                before=before.get(name),
            )
            for name, calls in self.pieces.items()
        }

    def staged(self) -> list[Staged]:
        """Return all that is on its way to the host."""
        pieces = [piece for calls in self.pieces.values() for piece in calls.values()]
        ids = [stack.ids for stack in self.stacks.all() if stack.ids is not None]
        return [*ids, *(staged for piece in pieces for staged in piece.staged)]

    def lost(self) -> dict[str, int]:
        """Return how many values of each site its dtype could not hold, once they are there."""
        counts: dict[str, int] = {}
        for name, calls in self.pieces.items():
            count = sum(int(piece.lost) for piece in calls.values() if piece.lost is not None)
            if count:
                counts[name] = count
        return counts


def _listed(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" * (len(names) > limit))
