"""A site as SQL sees it: its column, the names and types of its functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazycache.codec import dtypes
from lazycache.errors import QueryError
from lazycache.query.sql.arrow_lists import fits_array
from lazycache.types import RAGGED

if TYPE_CHECKING:
    from lazycache.types import SiteSpec


@dataclass(frozen=True, slots=True)
class LazyColumn:
    """A site as SQL sees it."""

    spec: SiteSpec
    """The site."""
    name: str
    """Its column: the site's name, with a suffix where another column differs in case only."""
    complete: bool
    """Whether every row of the table has a value, so that none needs to be looked up."""
    prefix: str = ""
    """What its functions' names begin with: the dataset, where there are several."""

    @property
    def value_function(self) -> str:
        """SQL function of a row: the whole value."""
        return f"{self.prefix}site:{self.name}"

    @property
    def unit_function(self) -> str:
        """SQL function of a row and one index per dimension: one number."""
        return f"{self.prefix}unit:{self.name}"

    @property
    def head_function(self) -> str:
        """SQL function of a row and an entry of the first dimension: that part of the value."""
        return f"{self.prefix}head:{self.name}"

    @property
    def measure_function(self) -> str:
        """SQL function of a row and the number of a measure: one number."""
        return f"{self.prefix}measure:{self.name}"

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of all of these."""
        return (
            self.value_function,
            self.unit_function,
            self.head_function,
            self.measure_function,
        )

    @property
    def ragged(self) -> bool:
        """Whether rows differ in width, as those of attention patterns do."""
        return self.spec.layout == RAGGED

    @property
    def has_heads(self) -> bool:
        """Whether a row has a first dimension whose entries are more than numbers."""
        return len(self.spec.shape) > 1

    @property
    def is_measured(self) -> bool:
        """Whether a row is a vector of known length."""
        return bool(self.spec.shape) and not self.ragged

    @property
    def scalar_type(self) -> str:
        """SQL type of one unit."""
        return dtypes.by_name(self.spec.dtype).duckdb

    @property
    def measure_type(self) -> str:
        """SQL type of a measure: DOUBLE, where the numbers are wider than float32 or integers."""
        return "FLOAT" if self.scalar_type == "FLOAT" else "DOUBLE"

    @property
    def value_type(self) -> str:
        """SQL type of the whole value: `FLOAT[64][12]` of 12 heads, `FLOAT[][]` of patterns."""
        if self.ragged:
            return f"{self.scalar_type}[][]"
        return self._nested_type(self.spec.shape)

    @property
    def head_type(self) -> str:
        """SQL type of one entry of the first dimension."""
        return f"{self.scalar_type}[]" if self.ragged else self._nested_type(self.spec.shape[1:])

    def _nested_type(self, shape: tuple[int, ...]) -> str:
        return self.scalar_type + "".join(
            f"[{size}]" if fits_array(size) else "[]" for size in reversed(shape)
        )


def check_unit(spec: SiteSpec, unit: tuple[int, ...], *, called: str = "unit") -> tuple[int, ...]:
    """Return a 0-based index with negative numbers counted from the end, as torch does.

    It is of the first dimensions of the site's shape, or of all.

    Raises:
        QueryError: outside the shape.
    """
    shape = spec.shape[: len(unit)]
    for index, size in zip(unit, shape, strict=True):
        if not -size <= index < size:
            asked = ", ".join(map(str, unit))
            raise QueryError(
                f"{called}({spec.name}, {asked}) is outside the shape {list(spec.shape)} of the "
                "site: indices are 0-based, as in torch."
            )
    return tuple(index % size for index, size in zip(unit, shape, strict=True))
