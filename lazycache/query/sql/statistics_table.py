"""The table `statistics`: the numbers of each unit of a site, read when a query wants the site.

A function of a site's name gives the list of its units, and the view unnests it. DuckDB filters on
the name first, so that `WHERE site = 'x'` reads the statistics of x alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from duckdb.func import FunctionNullHandling, PythonUDFType

from lazycache.catalog.computed import COMPUTED
from lazycache.catalog.index_fill import quoted
from lazycache.query.sql.arrow_lists import array_of
from lazycache.types import RAGGED

if TYPE_CHECKING:
    import duckdb

    from lazycache.cache.aggregates.statistics import Statistics
    from lazycache.query.sql.activity import Activity
    from lazycache.query.sql.failures import ReadFailures
    from lazycache.query.sql.members import StatisticsOf

COUNTS = ("nans", "pos_infs", "neg_infs")
"""Columns that are counts."""

NUMBERS = ("min", "max", "mean", "std", "sum")
"""Columns that are DOUBLE; all but the sum are NULL of a unit without a finite value."""

_UNIT = pa.struct(
    [
        ("unit", pa.int64()),
        ("indices", pa.list_(pa.int64())),
        *((name, pa.int64()) for name in ("rows", *COUNTS)),
        *((name, pa.float64()) for name in NUMBERS),
    ]
)

_TYPES = {pa.int64(): "BIGINT", pa.list_(pa.int64()): "BIGINT[]", pa.float64(): "DOUBLE"}


def create(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    *,
    sites: str,
    function: str,
    of: StatisticsOf,
    failures: ReadFailures,
    activity: Activity,
) -> None:
    """Create the view, and the function that it calls.

    Sites without units have no rows: those whose rows differ in width, and computed ones, of which
    nothing is stored.
    """

    def units(names: Any) -> pa.Array:
        with failures.carried(), activity.function():
            return lists([of(name) for name in names.to_pylist()])

    fields = ", ".join(f'"{field.name}" {_TYPES[field.type]}' for field in _UNIT)
    connection.create_function(
        function,
        units,
        ["VARCHAR"],
        f"STRUCT({fields})[]",
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )
    connection.execute(
        f"CREATE VIEW {view} AS SELECT site, of_unit.* FROM ("  # noqa: S608 - our own names
        f"SELECT site, unnest({quoted(function)}(site)) AS of_unit FROM {sites} "
        f"WHERE layout NOT IN ('{RAGGED}', '{COMPUTED}'))"
    )


def lists(found: list[Statistics | None]) -> pa.Array:
    """Return for each site the list of its units; of one without rows an empty list."""
    parts = [_units(one) for one in found if one is not None]
    sizes = [0 if one is None else one.mean.numel() for one in found]
    offsets = array_of(np.cumsum([0, *sizes], dtype=np.int32))
    values = pa.concat_arrays(parts) if parts else pa.array([], _UNIT)
    return pa.ListArray.from_arrays(offsets, values)


def _units(one: Statistics) -> pa.StructArray:
    count = one.mean.numel()
    places = np.indices(one.mean.shape, dtype=np.int64).reshape(one.mean.ndim, count).T
    offsets = array_of(np.arange(count + 1, dtype=np.int32) * np.int32(one.mean.ndim))
    arrays = [
        array_of(np.arange(count, dtype=np.int64)),
        pa.ListArray.from_arrays(offsets, array_of(places.reshape(-1))),
        array_of(np.full(count, one.rows, np.int64)),
        *(array_of(getattr(one, name).reshape(-1).cpu().numpy()) for name in COUNTS),
        *(_numbers(getattr(one, name)) for name in NUMBERS),
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(_UNIT))


def _numbers(values: torch.Tensor) -> pa.Array:
    wide = values.to(torch.float64).reshape(-1).cpu().numpy()
    return array_of(wide, missing=np.isnan(wide))  # NaN here says that there is no such number
