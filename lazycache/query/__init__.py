"""Questions over activations: SQL, and those that researchers ask; also methods of a cache.

One file per question; each is a function with the cache in front. A name is loaded when it is first
used: who asks one question loads what this one needs.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.attention_maps import AttentionMap, attention
    from lazycache.query.attribution import Attribution, attribute
    from lazycache.query.contexts import Context, context
    from lazycache.query.correlation import correlate
    from lazycache.query.costs import Cost, cost
    from lazycache.query.difference_summaries import DifferenceSummary
    from lazycache.query.differences import Difference, diff
    from lazycache.query.distributions import firing_rates, histogram, quantiles
    from lazycache.query.explaining import Explanation, explain
    from lazycache.query.grouping import group_mean
    from lazycache.query.hits import Hit, Hits
    from lazycache.query.mean_attentions import mean_attention
    from lazycache.query.nearest import similar
    from lazycache.query.probing import Probe, Score, probe
    from lazycache.query.quantile_bins import QuantileBin, quantile_samples
    from lazycache.query.representations import similarity
    from lazycache.query.top import top_k

__all__ = [
    "AttentionMap",
    "Attribution",
    "Cache",
    "Context",
    "Cost",
    "Difference",
    "DifferenceSummary",
    "Explanation",
    "Hit",
    "Hits",
    "Params",
    "Probe",
    "QuantileBin",
    "Score",
    "Site",
    "attention",
    "attribute",
    "context",
    "correlate",
    "cost",
    "diff",
    "explain",
    "firing_rates",
    "group_mean",
    "histogram",
    "mean_attention",
    "probe",
    "quantile_samples",
    "quantiles",
    "similar",
    "similarity",
    "top_k",
]

_HOMES = {
    "AttentionMap": "lazycache.query.attention_maps",
    "Attribution": "lazycache.query.attribution",
    "Cache": "lazycache.query.asked",
    "Context": "lazycache.query.contexts",
    "Cost": "lazycache.query.costs",
    "Difference": "lazycache.query.differences",
    "DifferenceSummary": "lazycache.query.difference_summaries",
    "Explanation": "lazycache.query.explaining",
    "Hit": "lazycache.query.hits",
    "Hits": "lazycache.query.hits",
    "Params": "lazycache.query.asked",
    "Probe": "lazycache.query.probing",
    "QuantileBin": "lazycache.query.quantile_bins",
    "Score": "lazycache.query.probing",
    "Site": "lazycache.query.asked",
    "attention": "lazycache.query.attention_maps",
    "attribute": "lazycache.query.attribution",
    "context": "lazycache.query.contexts",
    "correlate": "lazycache.query.correlation",
    "cost": "lazycache.query.costs",
    "diff": "lazycache.query.differences",
    "explain": "lazycache.query.explaining",
    "firing_rates": "lazycache.query.distributions",
    "group_mean": "lazycache.query.grouping",
    "histogram": "lazycache.query.distributions",
    "mean_attention": "lazycache.query.mean_attentions",
    "probe": "lazycache.query.probing",
    "quantile_samples": "lazycache.query.quantile_bins",
    "quantiles": "lazycache.query.distributions",
    "similar": "lazycache.query.nearest",
    "similarity": "lazycache.query.representations",
    "top_k": "lazycache.query.top",
}


class _Package(ModuleType):
    """The package: a name of the table is what the table says, never the file of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # an import makes a loaded file an attribute of the folder above it
        if name in _HOMES and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


if not TYPE_CHECKING:  # a type checker knows the names from above, and shall know no others

    def __getattr__(name):  # noqa: ANN001, ANN202
        """Load a name when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202
        """Name those too that nobody has used yet."""
        return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
