"""A forward pass while it runs: what it was called with, and the values copied so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch

from lazycache.capture.annotation import Annotation
from lazycache.capture.columns import Scalar
from lazycache.capture.convert import cast, to_host
from lazycache.capture.forward_inputs import ForwardInputs
from lazycache.capture.placement import table_of
from lazycache.capture.select import Rows, take_rows
from lazycache.codec.dtypes import of_tensor
from lazycache.errors import CaptureError, UnsupportedDtypeError
from lazycache.types import TOKENS, SiteBlock


@dataclass(slots=True, eq=False)
class ForwardPass:
    """One call of the whole model, in one thread."""

    inputs: ForwardInputs
    """What it was called with."""
    rows: Rows | None
    """Which of its tokens are kept; None if it has no sequences."""
    annotation: Annotation
    """What the user said of it."""
    columns: Mapping[str, list[Scalar]]
    """User columns, one value per example."""
    sites: dict[str, SiteBlock] = field(default_factory=dict)
    """The values of each site that was met."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often each site was met."""
    lost: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of sites that were cast, how many values the dtype could not hold: 0-d, on the device."""
    _flat: dict[torch.device, torch.Tensor] = field(default_factory=dict)

    def take(
        self,
        name: str,
        values: torch.Tensor,
        *,
        before: str | None,
        widths: Collection[int],
        dtype: torch.dtype | None,
    ) -> None:
        """Copy the kept rows of a site, now: what the model does to the tensor later is its own.

        Only the first time that a site is met; `check_calls` reports the others.

        Raises:
            UnsupportedDtypeError: values that cannot be stored.
            CaptureError: a shape that fits no table; see `table_of` for `before` and `widths`.
        """
        self.calls[name] += 1
        if self.calls[name] > 1:
            return
        with torch.no_grad():
            self._copy(name, values.detach(), before, widths, dtype)

    def _copy(
        self,
        name: str,
        values: torch.Tensor,
        before: str | None,
        widths: Collection[int],
        dtype: torch.dtype | None,
    ) -> None:
        _check_storable(name, values)
        table = table_of(name, values, self.inputs, before=before, widths=widths)
        kept = self._rows_of(values) if table == TOKENS else values
        kept, lost = cast(kept, dtype)
        if lost is not None:
            self.lost[name] = lost
        self.sites[name] = SiteBlock(table, to_host(kept, source=values))

    def _rows_of(self, values: torch.Tensor) -> torch.Tensor:
        assert self.rows is not None, "a site is placed in tokens only if there are some"
        flat = self._flat.get(values.device)
        if flat is None:
            flat = torch.from_numpy(self.rows.flat).to(values.device)
            self._flat[values.device] = flat
        return take_rows(values, self.rows, flat=flat)

    def check_calls(self, names: Iterable[str]) -> None:
        """Refuse a forward pass that did not meet each of the sites once.

        Raises:
            CaptureError: names those that it never met, or met more than once.
        """
        known = list(names)
        silent = [name for name in known if not self.calls[name]]
        if silent:
            raise CaptureError(
                f"The forward pass never called {_listed(silent)}: the module is not used for this "
                "input, or is called in a way that hooks do not see (its forward, another thread). "
                "Leave it out."
            )
        repeated = [name for name in known if self.calls[name] > 1]
        if repeated:
            raise CaptureError(
                f"The forward pass called {_listed(repeated)} {self.calls[repeated[0]]} times; a "
                "site has one value per row. Capture a module around it that is called once."
            )

    def check_tables(self, before: Mapping[str, str]) -> None:
        """Refuse what two threads placed in two tables, when neither was the first.

        Raises:
            CaptureError: names the site and both tables.
        """
        for name, block in self.sites.items():
            if before.get(name, block.table) != block.table:
                raise CaptureError(
                    f"{name} gave rows of {block.table}, and in another forward pass rows of "
                    f"{before[name]}."
                )


def _check_storable(name: str, values: torch.Tensor) -> None:
    try:
        of_tensor(values)
    except UnsupportedDtypeError as exc:
        raise UnsupportedDtypeError(f"{name}: {exc}") from exc


def _listed(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" * (len(names) > limit))
