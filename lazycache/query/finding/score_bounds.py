"""What fast arithmetic proves of scores: which rows cannot be among the best of a query.

Products of rows and queries are computed in bfloat16 or float32 and differ from the true ones by
what is bounded here; a row is left out only if its score is worse than the bar whatever the error.
All scores are such that more is better, for a query q and a row x with the norm n:

- cosine: x . q / n, that is the cosine times |q|, where q is scaled by a power of two;
- dot: x . q;
- l2: 2 x . q - n^2 - |q|^2, that is minus the squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lazycache.query.finding.query_tile import QueryTile

LOW, HIGH = 2.0**-40, 2.0**40
"""Norms between which no product of float32 or bfloat16 overflows, and none that counts is lost."""

NARROWEST = 64
"""Units from which bfloat16 is worth it, and from which a probe tells how it adds."""

_MOST_SLACK = 0.25
_PROBED = 1024
_CACHED_BYTES = 3 << 19
_TINY = 1e-12
_STEP = 2.0**-23
"""Twice the rounding of float32: of every sum, and of the thresholds themselves."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Products of rows and queries in one dtype, added in float32."""

    dtype: torch.dtype
    """Of both factors, and of the result."""
    rounding: float
    """Relative error of rounding a result to it."""

    def products(
        self, block: torch.Tensor, vectors: torch.Tensor, norms: torch.Tensor | None = None
    ) -> Products:
        """Return x . q and |x| of [rows, units] and [queries, units], both of the dtype.

        `norms`, float32[rows], is |x| as it was found before: it is not worked out again.
        """
        one = vectors[0] if len(vectors) == 1 else vectors.T
        if norms is None:
            # both of some rows, before they leave the processor's cache
            parts = [
                (rows @ one, torch.linalg.vector_norm(rows, dim=1))
                for rows in torch.split(block, max(1, _CACHED_BYTES // max(1, block[:1].nbytes)))
            ]
            dots = torch.cat([dot for dot, _ in parts])
            norms = torch.cat([norm for _, norm in parts]).float()
        else:
            dots = block @ one
        odd = None
        # of most blocks the least and the greatest norm say that there is none
        least, most = norms.aminmax() if len(norms) else (norms.sum(), norms.sum())
        if not (float(least) >= LOW and float(most) <= HIGH):
            odd = ~((norms >= LOW) & (norms <= HIGH))
        if self.slack(block.shape[1]) > _MOST_SLACK:
            odd = torch.ones_like(norms, dtype=torch.bool)
        return Products(dots.reshape(len(block), len(vectors)), norms, odd, self)

    def slack(self, units: int) -> float:
        """Return the error of a sum of `units` products, relative to |x| |q|; see Higham 2002, 3.1.

        Doubled, which holds for any order of adding, and with room for what is computed of it here.
        """
        return (units + 64) * _STEP


BFLOAT16 = Arithmetic(torch.bfloat16, 2.0**-8)
"""The processor's own products of bfloat16, where it has them: as fast as memory."""

FLOAT32 = Arithmetic(torch.float32, 2.0**-24)
"""Products in float32, of values of any dtype."""

FLOAT64 = Arithmetic(torch.float64, 2.0**-24)
"""Products in float64, where torch was told to be less exact in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """What fast arithmetic says of some rows and queries."""

    dots: torch.Tensor
    """[rows, queries]: x . q, in the dtype of the arithmetic."""
    norms: torch.Tensor
    """float32[rows]: |x|."""
    odd: torch.Tensor | None
    """bool[rows]: of these rows nothing is known: tiny, huge, zero, or not finite. None: of all
    rows something is."""
    arithmetic: Arithmetic
    """How they were computed."""

    def with_zeros(self, block: torch.Tensor, tile: QueryTile) -> Products:
        """Return the same for rows of which those that are zero are known to be.

        Of floats that float32 holds. Their cosine is 0, as that of a row across.
        """
        if self.odd is None or block.dtype == torch.float64 or not bool((self.norms == 0).any()):
            return self
        zero = self.norms == 0
        zero[zero.clone()] = (block[zero] == 0).all(dim=1)
        norms = self.norms.masked_fill(zero, 1.0 if tile.metric == "cosine" else 0.0)
        return replace(self, norms=norms, odd=self.odd & ~zero)

    def may_reach(self, tile: QueryTile, bars: torch.Tensor, *, later: bool) -> torch.Tensor:
        """Return which rows may be as good as the bars (float64[queries]): bool[rows, queries].

        With `later`, rows that are as good as the bar and no better do not count.
        """
        one, of_norm, of_square = tile.kept(
            (self.arithmetic, *bars.tolist()), lambda: self._least(tile, bars).float().unbind()
        )
        least = self.norms[:, None] * of_norm
        if tile.metric != "cosine":
            least += one
        if tile.metric == "l2":
            least += self.norms.square()[:, None] * of_square
        there = (self.dots <= least if later else self.dots < least).logical_not_()
        if self.odd is not None:
            there |= self.odd[:, None]
        found: torch.Tensor = there | tile.odd if tile.any_odd else there
        return found

    def reached(self, tile: QueryTile, k: int) -> torch.Tensor:
        """Return a score that k rows have at least, for each query: float64[queries]."""
        low = self._at_least(tile).topk(k, dim=0, sorted=True).values[-1].double()
        return low - tile.norms.square() * (1 + _TINY) if tile.metric == "l2" else low

    def _at_least(self, tile: QueryTile) -> torch.Tensor:
        """Return scores that are not above the true ones, of l2 without -|q|^2: float32[r, q]."""
        norms, spread = self.norms[:, None], self._spread(tile)
        low = self.dots.float()
        low = low - _fold(self.arithmetic.rounding) * low.abs()
        error = tile.error(self.arithmetic).float()
        if tile.metric == "cosine":
            low = low / norms
            low = low - spread / (1 - spread) * low.abs() - error
        else:
            low = low - (1 + spread) * error * norms
        if tile.metric == "l2":
            squares = (1 + spread) ** 2 * norms.square()
            low = (2 * low - squares) - 1e-6 * squares
        unknown = low.isnan() if self.odd is None else self.odd[:, None] | low.isnan()
        low = low.masked_fill(unknown, -torch.inf)
        return low.masked_fill(tile.odd, -torch.inf) if tile.any_odd else low

    def _least(self, tile: QueryTile, bars: torch.Tensor) -> torch.Tensor:
        """Return what a product must reach as numbers times 1, n and n^2: float64[3, queries]."""
        error, spread = tile.error(self.arithmetic), self._spread(tile)
        least = torch.zeros(3, len(bars), dtype=torch.float64)
        if tile.metric == "cosine":
            least[1] = (bars - error) - spread * (bars - error).abs()
        else:
            least[0] = bars
            least[1] = -(1 + spread) * error
        if tile.metric == "l2":
            squares = tile.norms.square()
            least[0] = (bars + squares - _TINY * (squares + bars.abs())) / 2
            least[2] = (1 - spread) ** 2 / 2
        return least - _fold(self.arithmetic.rounding) * least.abs()

    def _spread(self, tile: QueryTile) -> float:
        return _fold(self.arithmetic.rounding) + self.arithmetic.slack(tile.units)


def _fold(rounding: float) -> float:
    # x (1 + r) lies within 1.02 r of x (1 + r), for what is rounded here
    return 1.02 * rounding


def close_arithmetic(units: int) -> Arithmetic:
    """Return float32 if torch multiplies in it, which `torch.set_float32_matmul_precision` says.

    Cost: a product of a thousand rows.
    """
    # in bfloat16 and TF32 this is 1
    rows = torch.full((_PROBED, units), 1 + 2.0**-12, device="cpu")
    found = rows @ torch.ones(units, 2, device="cpu")
    return FLOAT32 if bool((found >= units * (1 + 2.0**-13)).all()) else FLOAT64


@lru_cache(maxsize=64)
def adds_bfloat16(units: int) -> bool:
    """Return whether torch adds products of bfloat16 in float32 on this machine.

    Cost: a few products, once for each number of units.
    """
    if units < NARROWEST:
        return False
    rows = torch.ones(64, units, dtype=torch.bfloat16, device="cpu")
    rows[:, 0] = 256
    # in bfloat16, 256 + 1 is 256
    true = torch.full((64, 2), 255.0 + units, device="cpu")
    for queries in (1, 2):
        found = BFLOAT16.products(rows, torch.ones(queries, units, dtype=torch.bfloat16))
        norms = (found.norms.square() - (65535.0 + units)).abs() / (65535.0 + units)
        errors = (found.dots.float() / true[:, :queries] - 1).abs()
        if float(errors.max()) > BFLOAT16.rounding or float(norms.max()) > 3 * BFLOAT16.rounding:
            return False
    return True
