"""Linear probes: what can be read off activations by one direction, tested on examples apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError
from lazycache.query.asked import Cache, Params, Site, tensor_of
from lazycache.query.probes.probe import Probe, Score
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
    """Return a linear model of what is said of rows; see `ActivationCache.probe`."""
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
