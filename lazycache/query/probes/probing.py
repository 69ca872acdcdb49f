"""Linear probes: what can be read off activations by one direction, tested on examples apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, overload

import numpy as np
import torch

from lazycache.cache.computing.expressions import map_rows
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError, nearest
from lazycache.query.asked import Cache, Params, Site, tensor_of
from lazycache.query.probes.probe_fits import Fit, logistic, ridge
from lazycache.query.probes.probe_rows import Part, check_memory, split
from lazycache.query.probes.probe_targets import Kind, Target, Targets, targets_of


def probe(
    cache: Cache,
    site: Site,
    target: Target,
    *,
    kind: Kind = "auto",
    l2: float = 1e-3,
    test: float = 0.2,
    seed: int = 0,
    where: str | None = None,
    params: Params = None,
) -> Probe:
    """Return a linear model of what is said of rows, fitted to a site. As the method of a cache."""
    x = tensor_of(cache, site, where=where, params=params)
    if not math.isfinite(l2) or l2 <= 0:
        raise QueryError(f"probe(l2={l2!r}): the penalty is a number above 0.")
    if not math.prod(x.row_shape) or not x.lead_ndim:
        raise QueryError(f"probe of {x!r}: it takes rows of at least one unit.")
    check_memory(x)
    targets = targets_of(x, target, kind)
    train, tested = split(x, targets, test, seed)
    left_out = int((~targets.known).sum())
    train = train.held()
    if targets.classes is None:
        return _of_numbers(x, train, tested, l2, left_out)
    return _of_classes(x, train, tested, targets, l2, left_out)


@dataclass(frozen=True, slots=True)
class Score:
    """How good a probe is on some rows."""

    rows: int
    """How many rows."""
    examples: int
    """How many examples they are of."""
    score: float
    """Share of rows whose class is right; of numbers R2, the share of the variance explained.

    R2 is nan of rows whose targets are all alike, of one row for example.
    """
    baseline: float
    """The same of saying always what is most frequent, or the mean, of the rows learned from."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A linear model of what is said of rows: weights, bias, and how good it is."""

    kind: str
    """`logistic` of classes, `ridge` of numbers."""
    site: str
    """What it was fitted to."""
    weights: torch.Tensor
    """float64[*row] towards the second of two classes, or of numbers; of more [classes, *row]."""
    bias: torch.Tensor
    """float64[]; of more than two classes [classes]."""
    classes: tuple[Any, ...] | None
    """The classes that were learned, ascending; None of numbers."""
    train: Score
    """On the rows that it was fitted to."""
    test: Score | None
    """On rows of other examples; None if none were kept apart."""
    left_out: int
    """Rows without a target: NULL or NaN."""
    converged: bool
    """Whether the fit came to its end; of numbers always."""

    @property
    def direction(self) -> torch.Tensor:
        """The weights of length one: float32[*row], for `top_k(direction=)`.

        Raises:
            QueryError: there are more than two classes; `direction_of` takes one.
        """
        if self.weights.ndim > self._row_ndim:
            raise QueryError(
                f"a probe of {len(self.classes or ())} classes has a direction for each: "
                "probe.direction_of(value)."
            )
        return _unit(self.weights)

    def direction_of(self, value: Any) -> torch.Tensor:
        """Return the direction towards one class from the others: float32[*row], length one.

        Raises:
            QueryError: it is no class of the probe; names the nearest.
        """
        known = self.classes or ()
        if value not in known:
            shown = nearest(str(value), map(str, known))
            raise QueryError(f"the probe has no class {value!r}. {shown}")
        if self.weights.ndim == self._row_ndim:
            return _unit(self.weights if known.index(value) else -self.weights)
        return _unit(self.weights[known.index(value)] - self.weights.mean(0))

    @overload
    def scores(self, x: LazyTensor) -> LazyTensor: ...
    @overload
    def scores(self, x: torch.Tensor) -> torch.Tensor: ...
    def scores(self, x: LazyTensor | torch.Tensor) -> LazyTensor | torch.Tensor:
        """Return what the model says of rows: numbers, or logits of classes: float64.

        [...] of [..., *row]; of more than two classes [..., classes]. Of a lazy tensor lazily.

        Raises:
            QueryError: rows have another shape than those it was fitted to.
        """
        row = self._row_shape
        mine = x.row_shape if isinstance(x, LazyTensor) else tuple(x.shape[x.ndim - len(row) :])
        if tuple(mine) != row:
            raise QueryError(f"the probe is of rows of shape {list(row)}, not {list(mine)}.")
        model = _Linear(self.weights, self.bias, len(row))
        if isinstance(x, LazyTensor):
            return map_rows(x, model, tuple(self.bias.shape), torch.float64)
        return model(x)

    def predict(self, x: LazyTensor | torch.Tensor) -> torch.Tensor | np.ndarray:
        """Return the class or the number of each row.

        Numbers are float64; classes an array of them. Of a tensor [..., *row] it is [...]; of a
        lazy one [rows], in the order of `x.rows`, which fits `x.rows.column("label")`.

        Cost: reads a lazy tensor once, in blocks.

        Raises:
            QueryError: rows have another shape than those it was fitted to.
        """
        found = self.scores(x.rows).load() if isinstance(x, LazyTensor) else self.scores(x)
        if self.classes is None:
            return found
        chosen = (found > 0).long() if self.bias.ndim == 0 else found.argmax(-1)
        values = np.empty(len(self.classes), dtype=object)
        values[:] = self.classes
        if not any(isinstance(value, str) for value in self.classes):
            values = np.array(self.classes)
        return cast("np.ndarray", values[chosen.cpu().numpy()])

    def __repr__(self) -> str:
        what = "R2" if self.classes is None else "accuracy"
        of = "" if self.classes is None else f", {len(self.classes)} classes"
        lines = [f"Probe({self.kind} of {self.site}{of}, {self.left_out:,} rows left out)"]
        for name, part in (("train", self.train), ("test", self.test)):
            if part is not None:
                lines.append(
                    f"  {name:5} {what} {part.score:.4f} (baseline {part.baseline:.4f}) of "
                    f"{part.rows:,} rows, {part.examples:,} examples"
                )
        if not self.converged:
            lines.append("  the fit did not come to its end: a larger l2 helps")
        return "\n".join(lines)

    @property
    def _row_ndim(self) -> int:
        return self.weights.ndim - self.bias.ndim

    @property
    def _row_shape(self) -> tuple[int, ...]:
        return tuple(self.weights.shape[self.bias.ndim :])


@dataclass(frozen=True, slots=True, eq=False)
class _Linear:
    """What a probe computes of rows; at the top of a module, so that it can be pickled."""

    weights: torch.Tensor
    bias: torch.Tensor
    row_ndim: int

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        lead = rows.shape[: rows.ndim - self.row_ndim]
        weights = self.weights.to(rows.device).reshape(*self.bias.shape, -1)
        flat = rows.reshape(*lead, weights.shape[-1]).double()
        found: torch.Tensor = flat @ weights.movedim(0, -1) + self.bias.to(rows.device)
        return found


def _unit(weights: torch.Tensor) -> torch.Tensor:
    length = torch.linalg.vector_norm(weights)
    found: torch.Tensor = weights / length.clamp(min=torch.finfo(torch.float64).tiny)
    return found.float()


def _of_numbers(x: LazyTensor, train: Part, tested: Part, l2: float, left_out: int) -> Probe:
    if bool((train.targets == train.targets[0]).all()):
        raise QueryError(
            f"probe: all {len(train.targets):,} targets to learn from are "
            f"{float(train.targets[0]):g}: there is nothing to find."
        )
    fit = ridge(train, l2)
    mean = train.targets.mean()
    scores = [
        _explained(part, fit, mean) if len(part.targets) else None for part in (train, tested)
    ]
    return _probe(x, "ridge", fit, None, scores, left_out)


def _of_classes(
    x: LazyTensor, train: Part, tested: Part, targets: Targets, l2: float, left_out: int
) -> Probe:
    assert targets.classes is not None
    counts = torch.bincount(train.targets, minlength=len(targets.classes))
    learned = (counts > 0).nonzero()[:, 0]
    if len(learned) == 1:
        only = targets.classes[int(learned[0])]
        raise QueryError(
            f"probe: all {len(train.targets):,} rows to learn from are of one class, {only!r}. "
            "Two are needed; if there are others, another seed or more examples bring them in."
        )
    # a class that is only in rows to test on is one that the probe cannot say: -1
    places = torch.full_like(counts, -1)
    places[learned] = torch.arange(len(learned))
    train, tested = (replace(part, targets=places[part.targets]) for part in (train, tested))
    fit = logistic(train, len(learned), l2)
    often = int(counts[learned].argmax())
    scores = [_right(part, fit, often) if len(part.targets) else None for part in (train, tested)]
    classes = tuple(targets.classes[i] for i in learned.tolist())
    return _probe(x, "logistic", fit, classes, scores, left_out)


def _probe(
    x: LazyTensor,
    kind: str,
    fit: Fit,
    classes: tuple[Any, ...] | None,
    scores: Sequence[Score | None],
    left_out: int,
) -> Probe:
    several = (len(fit.bias),) if len(fit.bias) > 1 else ()
    train, tested = scores
    assert train is not None, "there are rows"
    return Probe(
        kind=kind,
        site=x.site,
        weights=fit.weights.reshape((*several, *x.row_shape)),
        bias=fit.bias.reshape(several),
        classes=classes,
        train=train,
        test=tested,
        left_out=left_out,
        converged=fit.converged,
    )


def _explained(part: Part, fit: Fit, mean: torch.Tensor) -> Score:
    """Return R2: one minus the squared errors by the squared deviations of these rows."""
    errors = torch.zeros((), dtype=torch.float64)
    for values, targets in part.blocks():
        errors += (values @ fit.weights[0] + fit.bias[0] - targets).square().sum()
    spread = (part.targets - part.targets.mean()).square().sum()
    constant = (part.targets - mean).square().sum()
    spread = spread.where(spread > 0, torch.nan)  # targets that are all alike vary by nothing
    score, baseline = (float(1 - one / spread) for one in (errors, constant))
    return Score(len(part.targets), part.examples, score, baseline)


def _right(part: Part, fit: Fit, often: int) -> Score:
    right = 0
    for values, codes in part.blocks():
        logits = values @ fit.weights.T + fit.bias
        said = (logits[:, 0] > 0).long() if len(fit.bias) == 1 else logits.argmax(1)
        right += int((said == codes).sum())
    rows = len(part.targets)
    baseline = float((part.targets == often).double().mean())
    return Score(rows, part.examples, right / rows, baseline)
