"""What an addition takes from a model: sites, for which stored rows, and how that is described."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lazycache.capture.corpus.extract import Annotate
from lazycache.capture.corpus.provenance import describe_capture
from lazycache.capture.corpus.same_run import (
    addition_name,
    check_same_addition,
    describe_addition,
)
from lazycache.capture.recorder import Recorder
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.sites.projection import projection_weight
from lazycache.capture.sites.resolve import resolve_sites
from lazycache.capture.values.reduce import Transform, make_reductions
from lazycache.catalog.stored_examples import Tokens
from lazycache.types import RunInfo, Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is added: sites, and how their values are stored."""

    sites: str | Iterable[str]
    """Names or patterns."""
    dtype: torch.dtype | None
    """Cast of floating-point values."""
    pool: str | None
    """How the rows of an example become one."""
    transform: Mapping[str, Transform] | None
    """Pattern to a function of the rows."""


class AddedSites:
    """Sites of a model whose values are recorded for rows that are stored already.

    Raises:
        SiteNotFoundError: a pattern that means nothing in this model.
        CaptureError: options that do not fit the model.
    """

    def __init__(self, model: nn.Module, wanted: Wanted) -> None:
        self._model = model
        self._wanted = wanted
        resolved = resolve_sites(model, wanted.sites)
        self.points: Mapping[str, HookPoint] = resolved.points
        """Where the sites are in the model, by name."""
        self._projections = resolved.projections
        self._under_way: list[int] = []

    def describe(
        self, run: RunInfo, runs: Mapping[str, RunInfo], *, tokenizer: Any, given: Mapping[str, Any]
    ) -> RunInfo:
        """Describe the addition, and refuse one that does not fit its run.

        Args:
            run: The run whose rows get values.
            runs: All runs and earlier additions of the dataset, by name.
            tokenizer: That of the corpus; None where the stored tokens are taken.
            given: What the caller said of the rows; it must be what the run says.

        Raises:
            CaptureError: another model or selection, or a site that is there already.
        """
        wanted = self._wanted
        details = describe_capture(
            self._model,
            self.points,
            tokenizer=tokenizer,
            dtype=wanted.dtype,
            positions=given.get("positions", "all"),
            pool=wanted.pool,
            reductions=make_reductions(self.points, pool=wanted.pool, transform=wanted.transform),
        )
        said = {key: details.get(key, value) for key, value in given.items()}
        info = describe_addition(run.name, run.info, details, given=said)
        name = addition_name(run.name, self.points)
        known = runs.get(name)
        if known is not None:
            check_same_addition(known.info, info)
        return RunInfo(name, info)

    def arrays(self) -> dict[str, torch.Tensor]:
        """Return the weights that belong to the sites, by name: they may not be readable."""
        return {
            name: projection_weight(self._model, bound) for name, bound in self._projections.items()
        }

    def recorder(self, sink: Sink, *, expected: Mapping[int, Tokens], keeps_all: bool) -> Recorder:
        """Return a recorder of the stored rows.

        Args:
            sink: What it fills.
            expected: Example id to its stored tokens, of those that are under way.
            keeps_all: Whether every position of every example is stored.
        """
        wanted = self._wanted

        def stored(_: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
            keep = torch.zeros(mask.shape, dtype=torch.bool)
            for row, example in enumerate(self._under_way):
                keep[row, torch.from_numpy(expected[example].positions.astype(np.int64))] = True
            return keep.to(mask.device)

        return Recorder(
            self._model,
            self.points,
            sink,
            tokenizer=None,
            positions="all" if keeps_all else stored,
            dtype=wanted.dtype,
            columns=None,
            next_example=0,
            allow_empty=True,
            pool=wanted.pool,
            transform=wanted.transform,
        )

    def annotate(self, recorder: Recorder) -> Annotate:
        """Return what says whose rows come next: to the recorder, and to the choice of rows."""

        def annotate(
            *, example: Any = None, mask: Any = None, columns: Mapping[str, Any] | None = None
        ) -> None:
            del columns  # those of the examples are stored
            self._under_way = example
            recorder.annotate(example=example, mask=mask)

        return annotate
