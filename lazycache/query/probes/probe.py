"""A linear model of what is said of rows: what it says of others, and how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np
import torch

from lazycache.cache.computing.expressions import map_rows
from lazycache.cache.tensor.lazy_tensor import LazyTensor
from lazycache.errors import QueryError, nearest
from lazycache.faces.html import card, facts, table


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
    """A linear model of what is said of rows: weights, bias, and how good it is.

    What `cache.probe(site, target)` gives.

    Example:
        >>> from lazycache import ActivationCache
        >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> probe = ActivationCache().probe(x, x[:, 2] > 0)
        >>> probe.predict(torch.tensor([[0.0, 0.0, 2.0, 0.0]]))
        array([ True])
        >>> probe.scores(x[:3]).shape, int(probe.direction_of(True).argmax())
        (torch.Size([3]), 2)
    """

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

        For an example see `Probe`.

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

        [...] of [..., *row]; of more than two classes [..., classes]. For an example see `Probe`.

        Cost: of a lazy tensor nothing is read now, but when what is returned is.

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
        lazy one [rows], in the order of `x.rows`, which fits `x.rows.column("label")`. For an
        example see `Probe`.

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

    def _repr_html_(self) -> str:
        """Say how good it is in a notebook. All text is escaped."""
        names = ("rows", "examples", "score", "baseline")
        parts = (("train", self.train), ("test", self.test))
        rows = [(n, *(getattr(p, one) for one in names)) for n, p in parts if p is not None]
        what = "R2" if self.classes is None else "accuracy"
        shown = table(("", "rows", "examples", what, "baseline"), rows, left=("",))
        classes = None if self.classes is None else len(self.classes)
        said = [("of", self.site), ("classes", classes), ("rows left out", self.left_out)]
        end = "" if self.converged else facts([("the fit did not come to its end", "larger l2")])
        return card(self.kind, facts(said), shown, end, kind="Probe")

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
