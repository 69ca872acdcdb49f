"""What a capture takes from a model: sites, which of their rows, and how that is described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lazycache.capture.corpus.provenance import describe_capture
from lazycache.capture.inputs.example_ids import ExampleIds
from lazycache.capture.inputs.where import Where
from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.projection import Unchanged, check_projection, projection_weight
from lazycache.capture.sites.resolve import resolve_sites
from lazycache.capture.values.reduce import Transform, make_reductions
from lazycache.capture.values.select import Positions
from lazycache.types import Sink


class Recording:
    """Sites of a model and options of `lc.capture` that say which of their rows are kept.

    Raises:
        SiteNotFoundError: a pattern that means nothing in this model.
        CaptureError: options that do not fit the model or each other.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4))
        >>> list(Recording(model, "0").describe()["sites"])
        ['0:out']
    """

    def __init__(
        self,
        model: nn.Module,
        sites: str | Iterable[str],
        *,
        tokenizer: Any = None,
        positions: Positions = "all",
        dtype: torch.dtype | None = None,
        columns: Mapping[str, Any] | None = None,
        pool: str | None = None,
        transform: Mapping[str, Transform] | None = None,
        where: Where | None = None,
        heads: Mapping[str, Iterable[int]] | None = None,
        units: Mapping[str, Iterable[int]] | None = None,
        hooked: bool = True,
    ) -> None:
        self._model = model
        resolved = resolve_sites(model, sites)
        self.points: Mapping[str, HookPoint] = resolved.points
        """Where the sites are in the model, by name."""
        self._projections = resolved.projections
        for bound in self._projections.values():
            check_projection(model, bound)
        self._options: dict[str, Any] = {
            "tokenizer": tokenizer,
            "positions": positions,
            "dtype": dtype,
            "columns": columns,
            "where": where,
            "pool": pool,
            "transform": transform,
            "heads": heads,
            "units": units,
            "hooked": hooked,
        }
        self.keeps_all = where is None and not callable(positions)
        """Whether how many rows an example gives follows from how long it is."""

    def describe(self) -> Mapping[str, Any]:
        """Return the provenance of a run that records this, as JSON values."""
        said = self._options
        return describe_capture(
            self._model,
            self.points,
            reductions=make_reductions(
                self.points,
                **{name: said[name] for name in ("pool", "transform", "heads", "units")},
            ),
            **{name: said[name] for name in ("tokenizer", "dtype", "positions", "where", "pool")},
        )

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the weights that belong to the sites, by name: they may not be readable."""
        return {
            name: projection_weight(self._model, bound) for name, bound in self._projections.items()
        }

    def unchanged(self) -> Unchanged:
        """Return what checks that those weights stay as they are."""
        return Unchanged(self._model, self._projections)

    def recorder(
        self, sink: Sink, *, next_example: int, step: int, taken: ExampleIds, allow_empty: bool
    ) -> Recorder:
        """Return a recorder that fills a sink; see `Recorder`."""
        return Recorder(
            self._model,
            self.points,
            sink,
            next_example=next_example,
            step=step,
            taken=taken,
            allow_empty=allow_empty,
            **self._options,
        )
