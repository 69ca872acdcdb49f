"""Vectors and sites that are alike, as methods of a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.comparing.representations import Likeness
    from lazycache.query.finding.query_tile import Metric
    from lazycache.query.finding.query_vectors import UnitIndex, Vectors
    from lazycache.query.hits import Hits


class Comparing:
    """Vectors and sites that are alike."""

    __slots__ = ()

    def similar(
        self,
        site: Site,
        to: Vectors,
        k: int = 20,
        metric: Metric = "cosine",
        *,
        units: UnitIndex = None,
        where: str | None = None,
        params: Params = None,
        context: int = 10,
    ) -> Hits | list[Hits]:
        """Return the k rows that are most like a vector, best first; every row is compared.

        The answer is that of float64: rows are looked through in fast arithmetic whose error is
        bounded, and those that may be among the best are computed in float64. Of equal values the
        lower row comes first. A row of the site is most like itself: ask for one more.

        NaN never is a hit: rows with a NaN, and what their arithmetic makes of rows with
        infinities (of the cosine always). Where either is zero the cosine is 0.

        Args:
            site: A key of the cache, or a tensor. Rows of several dimensions are compared whole.
            to: A vector, [units] or of the shape of a row; or several, [queries, units]. Numbers,
                a tensor, an array, or rows of a lazy tensor, `x[3, 5]`.
            k: How many rows; all, where there are fewer.
            metric: "cosine"; "dot", the product; "l2", the distance, smallest first.
            units: The units that count, as an index of the dimensions of a row: `[3, 5]`,
                `slice(64)`. `to` has all units, or only these.
            where: A condition in SQL on the rows.
            params: Values for its parameters.
            context: Tokens around each hit.

        Returns:
            Hits with float64 values; of several vectors a list of them, one for each.

        Cost: reads what is selected once for all vectors, and the index once. Memory: the vectors
        in float64, k rows for each, and blocks; and of a site the lengths of its rows, which are
        kept for the next question: four bytes a row, 64 MiB of a dataset at most. bfloat16 is the
        fastest; where most rows are about as good as the best, float32 looks at them too.

        Raises:
            SiteNotFoundError: no such key.
            QueryError: `to` has another length or is not finite; another metric; k below 1.
            SelectionError: `units` does not fit.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> cache.similar("resid_out_0", [4.0, 5.0], k=2, metric="l2").values
            tensor([0.0000, 2.8284], dtype=torch.float64)
            >>> x = cache["resid_out_0"]
            >>> [hits.rows.tolist() for hits in cache.similar("resid_out_0", x[0], k=2)]
            [[0, 1], [1, 2]]
        """
        from lazycache.query.finding.nearest import similar

        return similar(
            cast("Cache", self),
            site,
            to,
            k,
            metric,
            units=units,
            where=where,
            params=params,
            context=context,
        )

    def similarity(
        self,
        a: Site,
        b: Site,
        metric: Likeness = "cka",
        *,
        variance: float = 0.99,
        where: str | None = None,
        params: Params = None,
    ) -> float:
        """Return how alike two sites are as representations of the same rows: from 0 to 1.

        1 if one is the other turned and scaled. Of A and B, whose columns are centred:

        - "cka": linear centred kernel alignment, `|A'B|^2 / (|A'A| |B'B|)` in Frobenius norms
          (Kornblith et al. 2019, arXiv:1905.00414; biased, as there);
        - "svcca": mean canonical correlation of the directions that have `variance` of each
          (Raghu et al. 2017, arXiv:1706.05806);
        - "procrustes": `|A'B|_* / (|A| |B|)`, the nuclear norm over Frobenius norms; 2 minus twice
          it is the distance of Ding et al. 2021 (arXiv:2108.01661), A and B scaled to norm 1.

        With fewer rows than units all of them, "svcca" most, come out too high.

        Args:
            a: A key of this cache or a tensor, lazy or in memory.
            b: Likewise, also of another cache. It has the same rows: of the same examples, by their
                ids, at the same positions. What is in memory is paired by its place.
            metric: What is computed.
            variance: For "svcca", the share of variance that is kept.
            where: A condition in SQL on the rows of both.
            params: Values for its parameters.

        Rows in which either has a value that is not finite are left out of both. Units that are
        constant count for nothing.

        Cost: reads both once, in blocks. In float64; memory is three matrices, units by units, of
        each pair, and does not grow with rows. Then singular values of such a matrix.

        Raises:
            SiteNotFoundError: no such key.
            QueryError: other rows, and where they differ; fewer than two rows; a site whose rows
                are all alike; another metric.
            MemoryBudgetError: the matrices need more than 4 GiB.

        Example:
            >>> from lazycache.samples import small_cache
            >>> cache = small_cache()
            >>> round(cache.similarity("resid_out_0", 2 * cache["resid_out_0"] + 1), 6)
            1.0
        """
        from lazycache.query.comparing.representations import similarity

        return similarity(
            cast("Cache", self), a, b, metric, variance=variance, where=where, params=params
        )
