"""How values are distributed, and how two caches differ, as methods of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lazycache.cache.aggregates.histogram import Bins, Histogram
    from lazycache.cache.aggregates.quantiles import Interpolation
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.comparing.differences import Difference
    from lazycache.query.describing.quantile_bins import Cut, QuantileBin
    from lazycache.query.probes.probe import Probe
    from lazycache.query.probes.probe_targets import Kind, Target


class Describing:
    """How values are distributed, and how two caches differ."""

    __slots__ = ()

    def histogram(
        self,
        site: Site,
        bins: Bins = 100,
        range: tuple[float, float] | None = None,  # noqa: A002  # torch's and numpy's name
        *,
        unit: int | Sequence[int] | None = None,
        where: str | None = None,
        params: Params = None,
    ) -> Histogram:
        """Count the values of a site between edges: of all its units together, or of one.

        Edges and counts are those of numpy's histogram in float64; NaN, infinities and what is
        beyond the edges are counted apart. `cache[site].histogram(dim="rows")` has one for each
        unit.

        Args:
            site: A key of the cache, or a tensor.
            bins: How many, of one width; or their edges, ascending.
            range: First and last edge; None: the least and the greatest finite value.
            unit: Of this unit alone; 0-based, an index for each dimension of a row.
            where: A condition in SQL on the rows.
            params: Values for the parameters of the condition.

        Cost: one pass over the rows, of one unit where one is named; least and greatest are stored
        of whole blocks of rows, of others they are another pass.

        Raises:
            SiteNotFoundError: there is no such site; names the nearest.
            SelectionError: edges that do not ascend, a range that is not finite, no such unit.
            QueryError: `unit` is not one index for each dimension of a row.

        Example:
            >>> from lazycache.samples import small_cache
            >>> counts, edges = small_cache().histogram("resid_out_0", 3, unit=0)
            >>> counts, edges.tolist()
            (tensor([2, 2, 2]), [0.0, 3.3333333333333335, 6.666666666666667, 10.0])
        """
        from lazycache.query.describing.distributions import histogram

        cache = cast("Cache", self)
        return histogram(cache, site, bins, range, unit=unit, where=where, params=params)

    def quantiles(
        self,
        site: Site,
        q: float | Sequence[float] | torch.Tensor,
        *,
        unit: int | Sequence[int] | None = None,
        interpolation: Interpolation = "linear",
        where: str | None = None,
        params: Params = None,
    ) -> torch.Tensor:
        """Return quantiles of each unit over all rows, or of one unit; exact.

        float64[*row], or float64[] of one unit; several `q` are a first dimension. As
        `torch.quantile` of the values in float64: of a unit with a NaN the result is nan, and so is
        one between infinities, which `interpolation="lower"` does not mix.

        Cost: as `LazyTensor.quantile`: some passes over the rows, in 256 MiB at most.

        Raises:
            SelectionError: there are no rows, or `q` is not from 0 to 1; else as `histogram`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().quantiles("resid_out_0", [0.5, 1.0], where="position > 0")
            tensor([[6., 7.],
                    [8., 9.]], dtype=torch.float64)
        """
        from lazycache.query.describing.distributions import quantiles

        cache = cast("Cache", self)
        return quantiles(
            cache, site, q, unit=unit, interpolation=interpolation, where=where, params=params
        )

    def quantile_samples(
        self,
        site: Site,
        unit: int | Sequence[int] | None,
        bins: int = 10,
        n: int = 5,
        *,
        by: Cut = "quantile",
        seed: int = 0,
        where: str | None = None,
        params: Params = None,
        context: int = 10,
    ) -> list[QuantileBin]:
        """Return the range of a unit cut into bins, and `n` rows of each by chance, in context.

        What a dashboard shows of a neuron at every strength. `for low, high, hits in ...` goes
        through the bins, lowest first; each also has `count`, the rows that it has.

        A value is in the bin whose lower edge it is, in the last one if it is its upper edge. NaN
        is in none; infinities are in the outer bins, whose edges are the least and the greatest
        finite value. Edges that are alike are one: where many values are equal, zeros of a ReLU
        say, there are fewer bins than were asked for, and the one that begins there has them all.
        Bins of one width may be empty. Without a finite value there are no bins.

        Args:
            site: A key of the cache, or a tensor.
            unit: 0-based, an index for each dimension of a row; None of rows of one number.
            bins: How many at most.
            n: Rows of each; of a bin with fewer all.
            by: Cut at `"quantile"`s, so that bins have as many rows each, or into one `"width"`.
            seed: The same rows for the same seed, however they are stored and on any machine.
            where: A condition in SQL on the rows.
            params: Values for the parameters of the condition.
            context: Tokens on each side of a hit; 0 for none.

        Cost: the unit is read once and held, up to 256 MiB; a larger one is read three or four
        times, in blocks. One query of the index for the hits.

        Raises:
            QueryError: `bins` or `n` is no whole number from 1, or no such `by`; else as
                `histogram`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> for low, high, hits in small_cache().quantile_samples("resid_out_0", 0, 2, 1):
            ...     print(low, high, hits.values)
            0.0 5.0 tensor([4.])
            5.0 10.0 tensor([8.])
        """
        from lazycache.query.describing.quantile_bins import quantile_samples

        return quantile_samples(
            cast("Cache", self),
            site,
            unit,
            bins,
            n,
            by=by,
            seed=seed,
            where=where,
            params=params,
            context=context,
        )

    def firing_rates(
        self,
        site: Site,
        threshold: float = 0.0,
        *,
        where: str | None = None,
        params: Params = None,
    ) -> torch.Tensor:
        """Return the share of rows in which each unit is above a threshold: float64[*row].

        Of every unit at once. NaN is never above; the threshold is not rounded to the dtype of the
        values. Of integers and bools too.

        Cost: blocks of rows whose stored least and greatest values say it are not read; the rest
        in one pass, or, where it is about a quarter of the units or fewer, these alone.

        Raises:
            SelectionError: there are no rows.
            QueryError: the threshold is NaN or no number; else as `histogram`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> small_cache().firing_rates("resid_out_0", 5)
            tensor([0.5000, 0.5000], dtype=torch.float64)
        """
        from lazycache.query.describing.distributions import firing_rates

        return firing_rates(cast("Cache", self), site, threshold, where=where, params=params)

    def diff(
        self,
        other: Any,
        site: Site,
        *,
        other_site: Site | None = None,
        by: str | None = None,
        where: str | None = None,
        params: Params = None,
    ) -> Difference:
        """Compare a site here with one of another cache, row by row: how much does it change?

        `base.diff(tuned, "resid_out_5")` of two models that saw the same examples; or two sites of
        one cache, `cache.diff(cache, "resid_out_3", other_site="resid_out_9")`. Rows are paired by
        example and position, in whatever order they are stored; tensors in memory by place.

        The result is lazy: `.delta` (other - this), `.norms` and `.cosines` of each row,
        `.top_k(k)` for the rows that change most, and `.summary`: mean norm, norm of the change by
        that of this side, mean cosine, statistics of the change of each unit, and, with `by`, a
        table of the same for each group.

        Args:
            other: A cache over the same examples, or this one.
            site: A key of both caches, or a tensor of this side.
            other_site: The key or tensor of the other side, where it is not `site`.
            by: A column or an expression of SQL, of this side's tables, to group rows by.
            where: A condition in SQL on the rows, of this side's tables.
            params: Values for the parameters of the condition.

        Cost: asks the index which rows there are, 20 bytes for each; with `by` 16 more, held. No
        shard is read now. `.summary` is one pass over both sides, in blocks of some MB.

        Raises:
            SelectionError: there are other rows on the other side: says which and how many.
            QueryError: rows differ in shape; else as `histogram`.

        Example:
            >>> from lazycache.samples import small_cache
            >>> base, tuned = small_cache(), small_cache()
            >>> tuned["moved"] = tuned["resid_out_0"] + 3.0
            >>> change = base.diff(tuned, "resid_out_0", other_site="moved", by="position")
            >>> change.norms[1].load()
            tensor([4.2426, 4.2426, 4.2426], dtype=torch.float64)
            >>> change.summary.groups.select(["position", "rows"]).to_pydict()
            {'position': [0, 1, 2], 'rows': [3, 2, 1]}
        """
        from lazycache.query.comparing.differences import diff

        return diff(
            cast("Cache", self),
            other,
            site,
            other_site=other_site,
            by=by,
            where=where,
            params=params,
        )

    def probe(
        self,
        site: Site,
        target: Target | np.ndarray,
        *,
        kind: Kind = "auto",
        l2: float = 1e-3,
        test: float = 0.2,
        seed: int = 0,
        where: str | None = None,
        params: Params = None,
    ) -> Probe:
        """Fit a linear model of what is said of rows to a site, and test it on other examples.

        Classes (text, bools, whole numbers of 20 different values or fewer) by logistic
        regression, of more than two classes multinomial; other numbers by ridge regression. Units
        are standardised for the fit; weights and bias are of the values as they are. The share
        `test` of the examples is kept apart: rows of one id are never on both sides, of several
        runs or datasets neither. Of a tensor in memory each row is an example. The same arguments
        give the same probe.

        Args:
            site: A key of the cache, or a tensor.
            target: A column, an expression of SQL, or a value for each row, in the order of
                `x.rows`; or a lazy tensor with a value for each row, also of another dataset:
                paired by example and position. Rows for which it is NULL or NaN are left out, and
                counted.
            kind: `"logistic"` or `"ridge"`, where it shall not follow from the target.
            l2: Penalty on the weights of standardised units, beside a loss that is a mean over
                rows: `l2 |w|^2` beside squared errors, `l2/2 |w|^2` beside cross-entropy.
            test: Share of the examples to test on; 0: no test.
            seed: Which examples these are.
            where: A condition in SQL on the rows.
            params: Values for the parameters of the condition.

        Cost: the rows to learn from are read once and held in their dtype, up to 1 GiB; more are
        read in each pass: of numbers two, of classes some tens. Beside it four matrices
        [units, units] in float64 at most, and some 50 bytes for each row.

        Raises:
            QueryError: one class, or a constant, to learn from; too few examples; values that are
                not finite; targets that do not fit; else as `histogram`.
            MemoryBudgetError: too many units.

        Example:
            >>> import torch
            >>> from lazycache.mapping.activation_cache import ActivationCache
            >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
            >>> probe = ActivationCache().probe(x, x[:, 2] > 0)
            >>> probe.classes, probe.test.score > 0.9, int(probe.direction.argmax())
            ((False, True), True, 2)
        """
        from lazycache.query.probes.probing import probe

        return probe(
            cast("Cache", self),
            site,
            target,
            kind=kind,
            l2=l2,
            test=test,
            seed=seed,
            where=where,
            params=params,
        )
