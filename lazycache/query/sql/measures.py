"""`dot`, `norm` and `cosine` of rows of numbers, in torch. Pure.

Numbers are taken as float32, those of float64 and integers as float64, and so is the vector. A dot
product is summed in that dtype in no fixed order, as `x @ v` of torch is. A norm neither overflows
nor vanishes on the way: rows whose squares would are summed in float64 after division by their
greatest number. A vector of zeros has no direction: its cosine is NULL, so that it is neither first
nor last of an order. Not-a-number and infinities give what the formula gives.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias

import torch

from lazycache.errors import QueryError

Kind: TypeAlias = Literal["dot", "norm", "cosine"]
"""What is measured of a row."""

SAFE = (1e-12, 3e18)
"""Norms between these are as good as float32 can be: no square overflows or vanishes."""

PIECE_VALUES = 1 << 18
"""Numbers that are widened and measured at a time: a megabyte of float32."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Measure:
    """One number of each row, asked for by a query: with a vector, and of one head if so."""

    kind: Kind
    """What is measured."""
    vector: torch.Tensor | None = None
    """float32 or float64 [units], in the dtype that rows are taken as; None for a norm."""
    head: int | None = None
    """The entry of the first dimension that alone is measured; None for the whole row."""

    @property
    def units(self) -> tuple[int, ...]:
        """Index of a row's dimensions: what has to be read."""
        return () if self.head is None else (self.head,)

    def of(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the number of each row of [rows, ...], and where it is NULL, if anywhere."""
        vectors = None if self.vector is None else self.vector[None]
        return measured(self.kind, values.reshape(len(values), -1), vectors)


def measured(
    kind: Kind, rows: torch.Tensor, vectors: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return one number for each row of [rows, units], and where it is NULL, if anywhere.

    `vectors` are one for all rows, [1, units], or one for each. Cost: the rows are read once, piece
    by piece, so that their widened numbers stay in the cache of a processor.
    """
    found = torch.empty(len(rows), dtype=computed_as(rows.dtype), device="cpu")
    missing = torch.zeros(len(rows), dtype=torch.bool, device="cpu") if kind == "cosine" else None
    step = max(1, PIECE_VALUES // max(1, rows.shape[1]))

    # in the dtypes that are given, whatever the caller of the query has switched on
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        for first in range(0, len(rows), step):
            piece = slice(first, first + step)
            own = vectors if vectors is None or len(vectors) == 1 else vectors[piece]
            wide = rows[piece].to(found.dtype)
            found[piece], none = _measured(kind, wide, None if own is None else own.to(found.dtype))
            if missing is not None and none is not None:
                missing[piece] = none
    return found, missing


def _measured(
    kind: Kind, rows: torch.Tensor, vectors: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if kind == "norm" or vectors is None:
        return norms(rows), None
    return (dots(rows, vectors), None) if kind == "dot" else cosines(rows, vectors)


class Measures:
    """Measures of queries that are prepared, by number. Each lives as long as its query does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        # who prepared a query holds its measures; nothing here keeps them
        self._kept: weakref.WeakValueDictionary[int, Measure] = weakref.WeakValueDictionary()

    def add(self, measure: Measure) -> int:
        """Return the number by which functions find a measure, until nobody holds it."""
        with self._lock:
            number = next(self._numbers)
            self._kept[number] = measure
        return number

    def __getitem__(self, number: int) -> Measure:
        with self._lock:
            found = self._kept.get(number)
        if found is None:
            raise QueryError(
                f"There is no vector {number}: its result was closed. Ask again with sql(...)."
            )
        return found

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)


def computed_as(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that values are measured in.

    Example:
        >>> computed_as(torch.bfloat16), computed_as(torch.int8)
        (torch.float32, torch.float64)
    """
    narrow = dtype.is_floating_point and dtype != torch.float64
    return torch.float32 if narrow else torch.float64


def dots(rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the dot product of each row of [rows, units] with its vector of [rows or 1, units]."""
    found: torch.Tensor = (
        rows @ vectors[0] if len(vectors) == 1 else torch.linalg.vecdot(rows, vectors)
    )
    return found


def norms(rows: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of each row of [rows, units].

    Example:
        >>> [f"{norm:.1e}" for norm in norms(torch.tensor([[3e-30, 4e-30], [3e30, 4e30]])).tolist()]
        ['5.0e-30', '5.0e+30']
    """
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1)
    hard = _hard(norm)
    if bool(hard.any()):
        scaled, scale = _scaled(rows[hard])
        exact = scaled.square().sum(-1).sqrt() * scale
        norm[hard] = torch.where(scale.isinf(), scale, exact).to(norm.dtype)
    return norm


def cosines(rows: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cosine of each row of [rows, units] with its vector of [rows or 1, units].

    And where there is none, because one of them is all zeros.
    """
    along, _ = _scaled(vectors)
    length = along.square().sum(-1, keepdim=True).sqrt()
    towards = (along / length).to(rows.dtype)
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1)
    cosine = dots(rows, towards) / norm
    hard = _hard(norm)
    missing = (length == 0).reshape(-1).expand(len(rows)).clone()
    if bool(hard.any()):
        exact = _scaled(rows[hard])[0]
        lengths = exact.square().sum(-1)
        missing[hard] |= lengths == 0
        along_them = towards if len(towards) == 1 else towards[hard]
        cosine[hard] = (dots(exact, along_them.double()) / lengths.sqrt()).to(cosine.dtype)
    return cosine.clamp(-1, 1), missing


def _hard(norm: torch.Tensor) -> torch.Tensor:
    """Say where sums of squares have overflowed, or lost their digits, or are not numbers."""
    return ~((norm > SAFE[0]) & (norm < SAFE[1]))


def _scaled(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows in float64, divided by their greatest absolute number, and that number."""
    wide = rows.double()
    scale = wide.abs().amax(-1) if wide.shape[-1] else wide.new_zeros(len(wide))
    return wide / torch.where(scale == 0, 1.0, scale)[:, None], scale
