"""Check a batch before any of it is queued: what is written later can only fail in the store."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from lazycache.codec.columns import Values, column_type, to_array
from lazycache.codec.dtypes import as_bytes
from lazycache.codec.spec import spec_of_block
from lazycache.codec.tiles import fitting_tile
from lazycache.errors import CaptureError, StorageError, UnsupportedDtypeError
from lazycache.storage.layout import site_dir
from lazycache.types import (
    CALLS_OF,
    EXAMPLES,
    INDEX_COLUMNS,
    RAGGED,
    WIDTH,
    RowBatch,
    SiteBlock,
    SiteSpec,
    TableBlock,
)
from lazycache.writer.parts import Part, SitePart, TablePart

_INDEX_TYPES = {"example": "int64", "position": "int32", "call": "int32"}
_RESERVED = frozenset({"row", "run"})  # every table of the index has its own
_TYPES = {**_INDEX_TYPES, "step": "int32"}  # of columns that every dataset has alike
_CALLS = frozenset(CALLS_OF.values())


class Intake:
    """Knows what each site and column of the dataset is; turns batches into parts.

    A site or column is declared by the first batch that has it, and stays what it is.
    """

    def __init__(
        self,
        *,
        sites: Mapping[str, SiteSpec],
        columns: Mapping[str, Mapping[str, str]],
        tiles: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._sites = dict(sites)
        self._tiles = tiles
        self._columns = {
            table: {**columns.get(table, {}), **{name: _INDEX_TYPES[name] for name in index}}
            for table, index in INDEX_COLUMNS.items()
        }

    def specs(self) -> Mapping[str, SiteSpec]:
        """Return what each site is that was declared so far."""
        return dict(self._sites)

    def parts(self, batch: RowBatch) -> list[Part]:
        """Return the parts of a batch that have rows.

        Cost: activations are not copied or looked at; columns become Arrow arrays.

        Raises:
            CaptureError: the batch does not fit together or does not fit the dataset; the message
                names everything that is wrong. Nothing was declared then.
            UnsupportedDtypeError: values that cannot be stored bit for bit.
        """
        problems: list[str] = []
        tables = {
            name: table
            for name, rows in batch.tables.items()
            if (table := self._table_part(name, rows, problems)) is not None
        }
        indexes = {name: _index(table) for name, table in tables.items()}
        sites = [
            site
            for name, block in batch.sites.items()
            if (site := self._site_part(name, block, batch, indexes, problems)) is not None
        ]
        problems += self._collisions(tables, sites)
        if problems:
            raise CaptureError("The batch cannot be stored:\n- " + "\n- ".join(problems))
        self._declare(tables, sites)
        parts: list[Part] = [*tables.values(), *sites]
        return [part for part in parts if part.rows]

    def _declare(self, tables: Mapping[str, TablePart], sites: list[SitePart]) -> None:
        for part in sites:
            self._sites[part.spec.name] = part.spec
        for table in tables.values():
            self._columns[table.table].update(table.types)

    def _table_part(self, name: str, block: TableBlock, problems: list[str]) -> TablePart | None:
        if name not in INDEX_COLUMNS:
            problems.append(f"table {name!r}: there are {', '.join(INDEX_COLUMNS)}")
            return None
        missing = [column for column in INDEX_COLUMNS[name] if column not in block.columns]
        if missing:
            problems.append(f"table {name!r}: no column {', '.join(missing)}")
            return None
        before = len(problems)
        columns: dict[str, pa.Array] = {}
        types: dict[str, str] = {}
        for column, values in block.columns.items():
            try:
                kind = self._kind(name, column, values)
                if kind is not None:  # nothing but None: a later batch will tell what it is
                    types[column], columns[column] = kind, to_array(values, kind)
                _check_column(name, column, values, block.rows)
            except CaptureError as exc:
                problems.append(f"column {column!r} of {name!r}: {exc}")
        if len(problems) > before:
            return None
        return TablePart(name, columns, types, block.rows)

    def _kind(self, table: str, column: str, values: Values) -> str | None:
        """Return the type of a column: as declared, but whole numbers may become fractions."""
        declared = self._columns[table].get(column, _TYPES.get(column))
        if declared == "int64" and column_type(values) == "float64":
            return "float64"
        return declared or column_type(values)

    def _site_part(
        self,
        name: str,
        block: SiteBlock,
        batch: RowBatch,
        indexes: Mapping[str, Mapping[str, np.ndarray]],
        problems: list[str],
    ) -> SitePart | None:
        before = len(problems)
        spec = self._spec(name, block, problems)
        if spec is None:
            return None
        if block.table not in batch.tables:
            problems.append(f"site {name!r}: the batch has no rows of its table {block.table!r}")
        elif not _covers(block, rows := batch.tables[block.table].rows):
            problems.append(f"site {name!r}: {block.rows} rows where the table has {rows}")
        index = indexes.get(block.table)
        if len(problems) > before or index is None:
            return None
        return _part(spec, block, index)

    def _spec(self, name: str, block: SiteBlock, problems: list[str]) -> SiteSpec | None:
        values = block.values
        try:
            if name not in self._sites:
                site_dir(name)
            spec = spec_of_block(name, block)
            fitting_tile(spec, self._tiles.get(name))
        except UnsupportedDtypeError as exc:
            raise UnsupportedDtypeError(f"site {name!r}: {exc}") from exc
        except (CaptureError, StorageError) as exc:
            problems.append(str(exc))
            return None
        if spec.layout == RAGGED and (len(spec.shape), spec.shape[-1]) != (2, -1):
            # the format knows more than readers do
            problems.append(f"site {name!r}: ragged rows have the shape (n, -1), not {spec.shape}")
        declared = self._sites.get(name, spec)
        if spec != declared:
            problems.append(
                f"site {name!r}: {_told(spec)}, but the dataset has {_told(declared)}"
                f"{_advice(spec, declared)}"
            )
        if values.device.type != "cpu" or not values.is_contiguous():
            problems.append(f"site {name!r}: values must be contiguous and on the CPU")
        return spec

    def _collisions(self, tables: Mapping[str, TablePart], sites: list[SitePart]) -> list[str]:
        """Sites and columns of a table share its namespace in SQL."""
        specs = {**self._sites, **{part.spec.name: part.spec for part in sites}}
        columns = {
            (name, column)
            for name, declared in self._columns.items()
            for column in (*declared, *(tables[name].types if name in tables else ()))
        }
        return [
            f"{spec.name!r} is a site and a column of {spec.table!r}: rename the column"
            for spec in specs.values()
            if (spec.table, spec.name) in columns
        ]


def _advice(spec: SiteSpec, declared: SiteSpec) -> str:
    """Say what to do where rows may be whole sequences, whose length differs."""
    both = (spec.shape, declared.shape)
    of_examples = spec.table == declared.table == EXAMPLES and spec.layout == declared.layout
    if not of_examples or not all(len(s) > 1 for s in both) or both[0][1:] != both[1][1:]:
        return ""
    return (
        ". If its first dimension counts tokens, run.annotate(mask=...), bool[batch, length], "
        "before each call of the model makes each token a row"
    )


def _covers(block: SiteBlock, rows: int) -> bool:
    """Whether a site has the rows of its table; of a table of calls it may have the first ones."""
    return block.rows == rows or (block.table in _CALLS and block.rows < rows)


def _part(spec: SiteSpec, block: SiteBlock, index: Mapping[str, np.ndarray]) -> SitePart:
    columns = {name: column[: block.rows] for name, column in index.items()}
    if block.widths is None:
        return SitePart(spec, as_bytes(block.values), columns, block.rows)
    columns[WIDTH] = block.widths
    starts = np.zeros(block.rows + 1, np.int64)
    np.cumsum(block.widths, out=starts[1:])
    starts *= spec.row_bytes
    return SitePart(spec, as_bytes(block.values), columns, block.rows, starts)


def _check_column(table: str, column: str, values: Values, rows: int) -> None:
    if not column or column in _RESERVED:
        raise CaptureError("the name is reserved: choose another")
    if table in _CALLS and column not in INDEX_COLUMNS[table]:
        raise CaptureError(f"rows of calls have no columns but {', '.join(INDEX_COLUMNS[table])}")
    if len(values) != rows:
        raise CaptureError(f"{len(values)} values for {rows} rows")
    if column in INDEX_COLUMNS[table] and to_array(values, _INDEX_TYPES[column]).null_count:
        raise CaptureError("None is not allowed here")


def _index(table: TablePart) -> dict[str, np.ndarray]:
    return {name: table.columns[name].to_numpy() for name in INDEX_COLUMNS[table.table]}


def _told(spec: SiteSpec) -> str:
    return f"{spec.dtype} rows of shape {spec.shape} in {spec.table!r}"
