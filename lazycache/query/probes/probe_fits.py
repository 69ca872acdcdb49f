"""Linear models that are fitted in passes over rows: ridge regression and logistic regression.

Units are standardised for the fit, by their mean and deviation in the rows that it learns from, and
the scaling is folded back: weights are of the values as they are. The penalty is on standardised
weights, so that a unit of large numbers is not favoured; the bias has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from lazycache.query.probes.probe_rows import Part

MOST_STEPS = 200
"""Steps of L-BFGS."""

ENOUGH = 1e-8
"""Gradient at which a fit is finished; the loss is a mean over rows."""

CLOSE = 1e-5
"""Gradient at which a fit that stopped is good."""

CONSTANT = 1e-12
"""A unit whose deviation is so small beside its mean says nothing."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Means of units and how they go together. Without slots, for what is worked out once."""

    rows: int
    """How many rows."""
    mean: torch.Tensor
    """float64[units]."""
    products: torch.Tensor
    """float64[units, units]: means of products of deviations."""
    target_mean: torch.Tensor
    """float64[]: mean of the targets."""
    target_products: torch.Tensor
    """float64[units]: means of products of deviations with those of the targets."""

    @cached_property
    def scale(self) -> torch.Tensor:
        """What deviations are divided by: float64[units]; of constant units infinity."""
        deviation = self.products.diagonal().clamp(min=0).sqrt()
        return deviation.masked_fill(deviation <= CONSTANT * self.mean.abs(), torch.inf)

    @cached_property
    def correlations(self) -> torch.Tensor:
        """float64[units, units]; zero of constant units."""
        return self.products / self.scale / self.scale[:, None]


def moments(part: Part) -> Moments:
    """Return the moments of rows. Cost: one pass; two matrices [units, units] in float64."""
    units, centre = part.units, part.targets.double().mean()
    sums, by_target = torch.zeros(2, units, dtype=torch.float64)
    products = torch.zeros(units, units, dtype=torch.float64)
    shift = None
    for values, targets in part.blocks():
        # distances from values like these, so that large means cost no digits
        shift = values.mean(0) if shift is None else shift
        near = values - shift
        sums += near.sum(0)
        products.addmm_(near.T, near)
        by_target += (targets.double() - centre) @ near
    assert shift is not None, "there are rows"
    rows = len(part.rows)
    apart = sums / rows
    return Moments(
        rows,
        shift + apart,
        products.div_(rows).addr_(apart, apart, alpha=-1),
        centre,
        by_target / rows,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A linear model of values as they are."""

    weights: torch.Tensor
    """float64[outputs, units]."""
    bias: torch.Tensor
    """float64[outputs]."""
    converged: bool
    """Whether it is the best there is, up to rounding."""


def ridge(part: Part, l2: float) -> Fit:
    """Return the weights w and the bias b of least mean((y - w x - b)^2) + l2 |w|^2, w scaled.

    Cost: one pass, and a system of equations of as many units (Hoerl and Kennard, 1970).
    """
    found = moments(part)
    system = found.correlations.clone()
    system.diagonal().add_(l2)
    factor = torch.linalg.cholesky(system)
    right = (found.target_products / found.scale)[:, None]
    weights = torch.cholesky_solve(right, factor)[:, 0] / found.scale
    bias = found.target_mean - weights @ found.mean
    return Fit(weights[None], bias[None], converged=True)


def logistic(part: Part, classes: int, l2: float) -> Fit:
    """Return the weights of least mean cross-entropy + l2/2 |w|^2, w scaled; one output of two.

    L-BFGS (Liu and Nocedal, 1989) in coordinates in which the curvature is at most about one: the
    bound of Boehning (1992) on the Hessian, which is one matrix for all steps.

    Cost: one pass for the bound, then one for each look at the loss, some tens.
    """
    found = moments(part)
    curvature = found.correlations.mul(0.25 if classes == _BINARY else 0.5)
    curvature.diagonal().add_(l2)
    factor = torch.linalg.cholesky(curvature)
    outputs = 1 if classes == _BINARY else classes
    loss = _Loss(part, found, factor, l2)
    steps = torch.zeros(part.units + 1, outputs, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [steps],
        max_iter=MOST_STEPS,
        max_eval=2 * MOST_STEPS,
        history_size=20,
        tolerance_grad=ENOUGH,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, steps.grad = loss(steps)
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch does not say
    closure()
    assert steps.grad is not None
    weights, bias = loss.unscaled(steps)
    return Fit(weights.T.contiguous(), bias, converged=bool(steps.grad.abs().max() <= CLOSE))


_BINARY = 2


@dataclass(frozen=True, slots=True, eq=False)
class _Loss:
    """Cross-entropy with a penalty, and its gradient, of weights in the coordinates of a factor."""

    part: Part
    found: Moments
    factor: torch.Tensor
    l2: float

    def unscaled(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights [units, outputs] and biases [outputs] of values as they are."""
        weights = self._weights(steps) / self.found.scale[:, None]
        return weights, steps[-1] - self.found.mean @ weights

    def __call__(self, steps: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the loss and its gradient [units + 1, outputs]."""
        weights, bias = self.unscaled(steps)
        loss, by_row, by_unit = 0.0, torch.zeros_like(bias), torch.zeros_like(weights)

        def of(
            values: torch.Tensor, targets: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            losses, slopes = _entropy(values @ weights + bias, targets)
            return losses, slopes.sum(0), values.T @ slopes

        # in order of the rows, so that the result does not depend on the threads
        for losses, slope_by_row, slope_by_unit in self.part.map(of):
            loss += float(losses)
            by_row += slope_by_row
            by_unit += slope_by_unit
        scaled, rows = self._weights(steps), len(self.part.rows)
        slope = (by_unit - self.found.mean[:, None] * by_row) / self.found.scale[:, None] / rows
        slope += self.l2 * scaled
        slope = torch.linalg.solve_triangular(self.factor, slope, upper=False)
        penalty = self.l2 / 2 * float(scaled.square().sum())
        return loss / rows + penalty, torch.cat([slope, by_row[None] / rows])

    def _weights(self, steps: torch.Tensor) -> torch.Tensor:
        """Return weights of standardised units."""
        found: torch.Tensor = torch.linalg.solve_triangular(self.factor.T, steps[:-1], upper=True)
        return found


def _entropy(logits: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses of rows, and what the loss of each grows by: as `logits`."""
    if logits.shape[1] == 1:
        signs = codes.double()[:, None]
        losses = torch.nn.functional.softplus(logits) - signs * logits
        return losses.sum(), logits.sigmoid() - signs
    likely = logits.log_softmax(1)
    slopes = likely.exp()
    slopes[torch.arange(len(codes)), codes] -= 1
    return -likely.gather(1, codes[:, None]).sum(), slopes
