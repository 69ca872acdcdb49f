"""What `bench_query` asks lazycache: the methods of its peers, answered by those of a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import lazycache as lc
from benchmarks.query_data import Data
from lazycache.catalog.index import index_directory


class Ours:
    """A lazycache dataset."""

    name = "lazycache"
    note = ""

    def __init__(self, data: Data, folder: Path, *, url: str | None = None) -> None:
        self.data, self.url, self.site = data, url or data.url, data.site
        index = index_directory()
        assert index is not None, "there is a home"
        self.paths = [Path(data.url), index]
        self.reopen()

    def reopen(self) -> None:
        """Open it again, and its tables."""
        self.cache: Any = lc.open(self.url)
        self.cache.sql("SELECT row FROM tokens LIMIT 1").fetchall()

    def close(self) -> None:
        """Close it."""
        self.cache.close()

    def top(self, unit: int, k: int, *, largest: bool = True) -> list[float]:
        """The k largest or smallest values of one unit, with the tokens around them."""
        hits = self.cache.top_k(self.site, unit, k=k, largest=largest)
        assert all(hit.context is not None for hit in hits), "with the tokens around it"
        return hits.values.tolist()

    def top_of_token(self, unit: int, k: int, token: int) -> list[float]:
        """The k largest values of one unit among the rows of one token."""
        hits = self.cache.top_k(self.site, unit, k=k, where="token_id = ?", params=[token])
        return hits.values.tolist()

    def top_in_sql(self, unit: int, k: int, *, condition: str = "") -> list[float]:
        """The k largest values of one unit in SQL."""
        query = (
            f"SELECT token, unit({self.site}, {unit}) AS a FROM tokens {condition} "
            f"ORDER BY a DESC LIMIT {k}"
        )
        return [row[1] for row in self.cache.sql(query).fetchall()]

    def mean_of_token(self, unit: int, token: int) -> float:
        """The mean of one unit over the rows of one token, in SQL."""
        query = f"SELECT avg(unit({self.site}, {unit})) FROM tokens WHERE token_id = ?"
        return float(self.cache.sql(query, [token]).fetchone()[0])

    def mean_of_all(self, unit: int) -> float:
        """The mean of one unit over all rows, in SQL."""
        query = f"SELECT avg(unit({self.site}, {unit})) FROM tokens"
        return float(self.cache.sql(query).fetchone()[0])

    def rows_of_token(self, token: int) -> torch.Tensor:
        """The rows of one token, in SQL."""
        found = self.cache.sql(f"SELECT {self.site} AS x FROM tokens WHERE token_id = ?", [token])
        values: torch.Tensor = found.torch()["x"]
        return values

    def column_in_sql(self) -> int:
        """All rows, in SQL, batch after batch."""
        query = f"SELECT {self.site} AS x FROM tokens"
        return sum(batch.num_rows for batch in self.cache.sql(query).batches())

    def whole(self) -> torch.Tensor:
        """The whole column."""
        values: torch.Tensor = self.cache[self.site].rows.load()
        return values

    def group_means(self) -> Any:
        """Means of all units by label."""
        found = self.cache.group_mean(self.site, "label")
        return getattr(found, "values", found)

    def similar(self, query: torch.Tensor, k: int) -> list[float]:
        """The k largest cosines to a vector."""
        return self.cache.similar(self.site, query, k=k, context=0).values.tolist()

    def similar_many(self, queries: torch.Tensor, k: int) -> list[list[float]]:
        """The k largest cosines to each of several vectors."""
        found = self.cache.similar(self.site, queries, k=k, context=0)
        return [hits.values.tolist() for hits in found]

    def largest_dot(self, vector: torch.Tensor) -> float:
        """The largest dot product of any row with a vector, in SQL."""
        found = self.cache.sql(f"SELECT max(dot({self.site}, $v)) FROM tokens", {"v": vector})
        return float(found.fetchone()[0])

    def correlations(self) -> Any:
        """Pearson correlation of every unit with the position."""
        return self.cache.correlate(self.site, "position")

    def correlation_loop(self, units: list[int]) -> list[float]:
        """Pearson correlation of some units with the position, unit by unit in SQL."""
        return [
            self.cache.sql(f"SELECT corr(unit({self.site}, {u}), position) FROM tokens").fetchone()[
                0
            ]
            for u in units
        ]
