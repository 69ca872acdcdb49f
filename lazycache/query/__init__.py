"""Questions over activations: SQL, and those that researchers ask; also methods of a cache.

One file per question; each is a function with the cache in front. A name is loaded when it is first
used: who asks one question loads what this one needs.
"""

import sys
from typing import TYPE_CHECKING

from lazycache.lazy_names import LazyPackage

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


sys.modules[__name__].__class__ = LazyPackage
