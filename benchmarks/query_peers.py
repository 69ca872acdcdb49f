"""The ways in which activations are asked today, for `bench_query`: the same rows in each.

A peer answers what it can as well as it can; a method that it lacks is a question that is not put
to it. Values are what they are in bfloat16, in float32 where a format has no shorter number of that
range: DuckDB, Parquet and pandas. Lance holds them as float16. No peer looks up the tokens around
a hit, which lazycache does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.query_data import LABELS, Data

BATCH = 32_768
"""Rows that are converted at a time."""


class Memmap:
    """`np.memmap` of the raw matrix, and torch: a scan of all rows."""

    name = "memmap + torch"
    note = "a scan of all rows, without the tokens around a hit"

    def __init__(self, data: Data, folder: Path) -> None:
        self.data, self.paths = data, [data.raw_path]
        self.reopen()

    def reopen(self) -> None:
        """Open it again."""
        self.x = torch.from_numpy(self.data.raw()).view(torch.bfloat16)

    def close(self) -> None:
        """Unmap it: pages that are mapped are never cold."""
        del self.x

    def top(self, unit: int, k: int, *, largest: bool = True) -> list[float]:
        """The k largest or smallest values of one unit."""
        return self.x[:, unit].float().topk(k, largest=largest).values.tolist()

    def top_of_token(self, unit: int, k: int, token: int) -> list[float]:
        """The k largest values of one unit among the rows of one token."""
        rows = np.flatnonzero(self.data.columns["token_id"] == token)
        return self.x[torch.from_numpy(rows), unit].float().topk(k).values.tolist()

    def mean_of_token(self, unit: int, token: int) -> float:
        """The mean of one unit over the rows of one token: reads the column, then chooses."""
        column = self.x[:, unit].clone()
        return float(
            column[torch.from_numpy(self.data.columns["token_id"] == token)].double().mean()
        )

    def rows_of_token(self, token: int) -> torch.Tensor:
        """The rows of one token."""
        rows = np.flatnonzero(self.data.columns["token_id"] == token)
        return self.x[torch.from_numpy(rows)]

    def group_means(self) -> Any:
        """Means of all units by label."""
        labels = torch.from_numpy(self.data.columns["label"])
        sums = torch.zeros(LABELS, self.x.shape[1], dtype=torch.float64)
        for start in range(0, len(self.x), BATCH):
            part = self.x[start : start + BATCH].double()
            sums.index_add_(0, labels[start : start + BATCH], part)
        return sums / torch.bincount(labels, minlength=LABELS)[:, None]

    def similar(self, query: torch.Tensor, k: int) -> list[float]:
        """The k largest cosines to a vector, block by block."""
        wanted, found = query / query.norm(), []
        for start in range(0, len(self.x), BATCH):
            part = self.x[start : start + BATCH].float()
            found.append(part @ wanted / part.norm(dim=1))
        return torch.cat(found).topk(k).values.tolist()

    def largest_dot(self, vector: torch.Tensor) -> float:
        """The largest dot product of any row with a vector."""
        parts = (self.x[i : i + BATCH].float() @ vector for i in range(0, len(self.x), BATCH))
        return max(float(part.max()) for part in parts)

    def correlations(self) -> Any:
        """Pearson correlation of every unit with the position, in one pass."""
        positions = torch.from_numpy(self.data.columns["position"]).double()
        sums, squares, products = (torch.zeros(self.x.shape[1]).double() for _ in range(3))
        for start in range(0, len(self.x), BATCH):
            part = self.x[start : start + BATCH].double()
            sums += part.sum(0)
            squares += part.square().sum(0)
            products += positions[start : start + BATCH] @ part
        rows, mean = len(self.x), positions.mean()
        spread = (squares - sums.square() / rows).sqrt() * positions.std(correction=0) * rows**0.5
        return (products - sums * mean) / spread

    def correlation_loop(self, units: list[int]) -> list[float]:
        """Pearson correlation of some units with the position, unit by unit."""
        positions = self.data.columns["position"].astype(np.float64)
        return [
            float(np.corrcoef(self.x[:, unit].double().numpy(), positions)[0, 1]) for unit in units
        ]


class _DuckDB:
    """Values in a file that DuckDB reads."""

    name = ""
    note = ""

    def __init__(self, data: Data, path: Path) -> None:
        self.data, self.paths = data, [path]
        self.table = f"read_parquet('{path}')"
        self.reopen()

    def reopen(self) -> None:
        """Open it again."""
        import duckdb

        self.db = duckdb.connect()

    def close(self) -> None:
        """Close it."""
        self.db.close()

    def unit(self, unit: int) -> str:
        """One unit in SQL."""
        raise AttributeError

    def top(self, unit: int, k: int, *, largest: bool = True) -> list[float]:
        """The k largest or smallest values of one unit."""
        order = "DESC" if largest else "ASC"
        query = (
            f"SELECT {self.unit(unit)} AS a, example, position FROM {self.table} "
            f"ORDER BY a {order} LIMIT {k}"
        )
        return [row[0] for row in self.db.execute(query).fetchall()]

    def top_of_token(self, unit: int, k: int, token: int) -> list[float]:
        """The k largest values of one unit among the rows of one token."""
        query = (
            f"SELECT {self.unit(unit)} AS a, example, position FROM {self.table} "
            f"WHERE token_id = {token} ORDER BY a DESC LIMIT {k}"
        )
        return [row[0] for row in self.db.execute(query).fetchall()]

    def mean_of_token(self, unit: int, token: int) -> float:
        """The mean of one unit over the rows of one token."""
        query = f"SELECT avg({self.unit(unit)}) FROM {self.table} WHERE token_id = {token}"
        [(mean,)] = self.db.execute(query).fetchall()
        return float(mean)


class Lists(_DuckDB):
    """DuckDB over Parquet with a list of floats per row: how embeddings are usually kept."""

    name = "DuckDB, Parquet lists"
    note = "holds float32"

    def __init__(self, data: Data, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        width, path = data.shape[1], folder / "lists.parquet"
        schema = _schema().append(pa.field("x", pa.list_(pa.float32())))
        with pq.ParquetWriter(path, schema, use_dictionary=list(_schema().names)) as writer:
            for keys, values in _parts(data):
                flat = pa.array(values.float().flatten().numpy())
                offsets = pa.array(np.arange(0, len(flat) + 1, width, dtype=np.int32))
                lists = pa.ListArray.from_arrays(offsets, flat)
                writer.write_table(pa.table([*keys, lists], schema=schema))
        super().__init__(data, path)

    def unit(self, unit: int) -> str:
        """One unit in SQL."""
        return f"x[{unit + 1}]"

    def rows_of_token(self, token: int) -> torch.Tensor:
        """The rows of one token."""
        query = f"SELECT x FROM {self.table} WHERE token_id = {token}"
        column = self.db.sql(query).to_arrow_table()["x"].combine_chunks()
        flat = column.flatten().to_numpy()
        return torch.from_numpy(flat.reshape(-1, self.data.shape[1]).copy())

    def similar(self, query: torch.Tensor, k: int) -> list[float]:
        """The k largest cosines to a vector."""
        text = (
            f"SELECT list_cosine_similarity(x, $q::FLOAT[]) AS a, example, position "
            f"FROM {self.table} ORDER BY a DESC LIMIT {k}"
        )
        return [row[0] for row in self.db.execute(text, {"q": query.tolist()}).fetchall()]

    def largest_dot(self, vector: torch.Tensor) -> float:
        """The largest dot product of any row with a vector."""
        text = f"SELECT max(list_dot_product(x, $q::FLOAT[])) FROM {self.table}"
        [(largest,)] = self.db.execute(text, {"q": vector.tolist()}).fetchall()
        return float(largest)


class Wide(_DuckDB):
    """DuckDB over Parquet with a column for each unit: what suits questions about one unit best."""

    name = "DuckDB, wide Parquet"
    note = "holds float32"

    def __init__(self, data: Data, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        width, path = data.shape[1], folder / "wide.parquet"
        schema = _schema()
        for unit in range(width):
            schema = schema.append(pa.field(f"u{unit}", pa.float32()))
        with pq.ParquetWriter(path, schema, use_dictionary=list(_schema().names)) as writer:
            for keys, values in _parts(data):
                units = values.float().T.contiguous().numpy()
                writer.write_table(pa.table([*keys, *map(pa.array, units)], schema=schema))
        super().__init__(data, path)

    def unit(self, unit: int) -> str:
        """One unit in SQL."""
        return f"u{unit}"

    def group_means(self) -> Any:
        """Means of all units by label."""
        query = f"SELECT label, avg(COLUMNS('u[0-9]+')) FROM {self.table} GROUP BY label ORDER BY 1"
        found = self.db.execute(query).fetchnumpy()
        return torch.tensor(np.stack([found[name] for name in list(found)[1:]], 1))

    def correlations(self) -> Any:
        """Pearson correlation of every unit with the position, in one query."""
        query = f"SELECT corr(COLUMNS('u[0-9]+'), position) FROM {self.table}"
        return torch.tensor(self.db.execute(query).fetchone())

    def correlation_loop(self, units: list[int]) -> list[float]:
        """Pearson correlation of some units with the position, unit by unit."""
        found = [
            self.db.execute(f"SELECT corr(u{unit}, position) FROM {self.table}").fetchone()
            for unit in units
        ]
        return [float(row[0]) for row in found if row is not None]


class Lance:
    """A Lance dataset of fixed-size lists of float16, without an index."""

    name = "Lance"
    note = "holds float16, no index"

    def __init__(self, data: Data, folder: Path) -> None:
        import lance
        import pyarrow as pa

        self.data, self.paths = data, [folder / "acts.lance"]
        kind = pa.list_(pa.float16(), data.shape[1])
        schema = _schema().append(pa.field("x", kind))

        def batches() -> Iterator[Any]:
            for keys, values in _parts(data):
                flat = pa.array(values.half().flatten().numpy())
                lists = pa.FixedSizeListArray.from_arrays(flat, data.shape[1])
                yield pa.record_batch([*keys, lists], schema=schema)

        lance.write_dataset(batches(), str(self.paths[0]), schema=schema)
        self.reopen()

    def reopen(self) -> None:
        """Open it again."""
        import lance

        self.table = lance.dataset(str(self.paths[0]))

    def close(self) -> None:
        """Close it."""
        del self.table

    def top(self, unit: int, k: int, *, largest: bool = True) -> list[float]:
        """The k largest or smallest values of one unit: it has no top of an element of a list."""
        return self._top(unit, k, largest=largest)

    def top_of_token(self, unit: int, k: int, token: int) -> list[float]:
        """The k largest values of one unit among the rows of one token."""
        return self._top(unit, k, largest=True, filter=f"token_id = {token}")

    def mean_of_token(self, unit: int, token: int) -> float:
        """The mean of one unit over the rows of one token."""
        return float(np.mean(self._column(unit, filter=f"token_id = {token}"), dtype=np.float64))

    def rows_of_token(self, token: int) -> torch.Tensor:
        """The rows of one token."""
        found = self.table.to_table(columns=["x"], filter=f"token_id = {token}")
        return torch.from_numpy(_flat(found["x"]).reshape(-1, self.data.shape[1]).copy())

    def similar(self, query: torch.Tensor, k: int) -> list[float]:
        """The k largest cosines to a vector, by its own search without an index."""
        nearest = {"column": "x", "q": query.half().numpy(), "k": k, "metric": "cosine"}
        found = self.table.to_table(
            columns=["example", "position", "_distance"],
            nearest=nearest,
            disable_scoring_autoprojection=True,
        )
        return [1 - distance for distance in found["_distance"].to_pylist()]

    def _top(self, unit: int, k: int, *, largest: bool, **chosen: Any) -> list[float]:
        values = torch.from_numpy(self._column(unit, **chosen)).float()
        return values.topk(k, largest=largest).values.tolist()

    def _column(self, unit: int, **chosen: Any) -> np.ndarray:
        found = self.table.to_table(columns={"a": f"array_element(x, {unit + 1})"}, **chosen)
        return found["a"].to_numpy()


class Pandas:
    """A pandas table of float32 in memory: how groups are usually averaged."""

    name = "pandas, in memory"
    note = "holds float32, in memory"

    def __init__(self, data: Data, folder: Path) -> None:
        import pandas as pd

        values = torch.from_numpy(data.raw()).view(torch.bfloat16).float().numpy()
        self.frame = pd.DataFrame(values)
        self.paths: list[Path] = []
        self.labels = data.columns["label"]

    def close(self) -> None:
        """Let go of it."""
        del self.frame

    def group_means(self) -> Any:
        """Means of all units by label."""
        return torch.from_numpy(self.frame.groupby(self.labels).mean().to_numpy().copy())


PEERS: dict[type[Any], str] = {
    Memmap: "numpy",
    Lists: "duckdb",
    Wide: "duckdb",
    Lance: "lance",
}
"""The peers that hold all values in a file, and the module that each needs."""


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([(n, pa.int32()) for n in ("example", "position", "token_id", "label")])


def _parts(data: Data) -> Iterator[tuple[list[Any], torch.Tensor]]:
    """Columns and values of one block of rows after the other."""
    import pyarrow as pa

    for start, values in data.blocks(BATCH):
        keys = [
            pa.array(data.columns[name][start : start + BATCH].astype(np.int32))
            for name in _schema().names
        ]
        yield keys, values


def _flat(column: Any) -> np.ndarray:
    return np.concatenate(
        [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    )
