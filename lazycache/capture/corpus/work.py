"""How much a model has to do: examples, tokens and squares of lengths. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """What some examples ask of a model."""

    examples: float = 0
    """How many."""
    tokens: float = 0
    """Their tokens; of images, how many there are."""
    squares: float = 0
    """Sum of the squares of their lengths: what attention patterns cost."""

    @staticmethod
    def of(lengths: Iterable[int]) -> Work:
        """Return what examples of these lengths ask.

        Example:
            >>> Work.of([2, 3])
            Work(examples=2, tokens=5, squares=13)
        """
        known = list(lengths)
        return Work(len(known), sum(known), sum(length**2 for length in known))

    def __add__(self, other: Work) -> Work:
        """Return both together."""
        return Work(
            self.examples + other.examples,
            self.tokens + other.tokens,
            self.squares + other.squares,
        )

    def __sub__(self, other: Work) -> Work:
        """Return what is left without the other; never less than nothing."""
        return Work(
            max(0, self.examples - other.examples),
            max(0, self.tokens - other.tokens),
            max(0, self.squares - other.squares),
        )

    def grown(self, examples: float) -> Work:
        """Return what so many examples like these ask.

        Example:
            >>> Work(examples=2, tokens=10, squares=52).grown(4)
            Work(examples=4, tokens=20.0, squares=104.0)
        """
        times = examples / self.examples if self.examples else 0.0
        return Work(examples, self.tokens * times, self.squares * times)
