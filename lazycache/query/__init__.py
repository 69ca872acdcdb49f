"""Questions over activations: SQL, and those that researchers ask; also methods of a cache.

One file per question; each is a function with the cache in front. A name is loaded when it is first
used: who asks one question loads what this one needs.
"""

import sys
from typing import TYPE_CHECKING

from lazycache.lazy_names import LazyPackage

if TYPE_CHECKING:
    from lazycache.query.asked import Cache, Params, Site
    from lazycache.query.attending.attention_maps import AttentionMap, attention
    from lazycache.query.attending.attributed import Attribution
    from lazycache.query.attending.attribution import attribute
    from lazycache.query.attending.mean_attentions import mean_attention
    from lazycache.query.comparing.difference_summaries import DifferenceSummary
    from lazycache.query.comparing.differences import Difference, diff
    from lazycache.query.comparing.representations import similarity
    from lazycache.query.contexts import Context, context
    from lazycache.query.describing.distributions import firing_rates, histogram, quantiles
    from lazycache.query.describing.quantile_bins import QuantileBin, quantile_samples
    from lazycache.query.estimating.costs import Cost, cost
    from lazycache.query.estimating.explaining import Explanation, explain
    from lazycache.query.finding.nearest import similar
    from lazycache.query.finding.top import top_k
    from lazycache.query.hits import Hit, Hits
    from lazycache.query.probes.probe import Probe, Score
    from lazycache.query.probes.probing import probe
    from lazycache.query.relating.correlation import correlate
    from lazycache.query.relating.grouping import group_mean

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
    "AttentionMap": "lazycache.query.attending.attention_maps",
    "Attribution": "lazycache.query.attending.attribution",
    "Cache": "lazycache.query.asked",
    "Context": "lazycache.query.contexts",
    "Cost": "lazycache.query.estimating.costs",
    "Difference": "lazycache.query.comparing.differences",
    "DifferenceSummary": "lazycache.query.comparing.difference_summaries",
    "Explanation": "lazycache.query.estimating.explaining",
    "Hit": "lazycache.query.hits",
    "Hits": "lazycache.query.hits",
    "Params": "lazycache.query.asked",
    "Probe": "lazycache.query.probes.probing",
    "QuantileBin": "lazycache.query.describing.quantile_bins",
    "Score": "lazycache.query.probes.probing",
    "Site": "lazycache.query.asked",
    "attention": "lazycache.query.attending.attention_maps",
    "attribute": "lazycache.query.attending.attribution",
    "context": "lazycache.query.contexts",
    "correlate": "lazycache.query.relating.correlation",
    "cost": "lazycache.query.estimating.costs",
    "diff": "lazycache.query.comparing.differences",
    "explain": "lazycache.query.estimating.explaining",
    "firing_rates": "lazycache.query.describing.distributions",
    "group_mean": "lazycache.query.relating.grouping",
    "histogram": "lazycache.query.describing.distributions",
    "mean_attention": "lazycache.query.attending.mean_attentions",
    "probe": "lazycache.query.probes.probing",
    "quantile_samples": "lazycache.query.describing.quantile_bins",
    "quantiles": "lazycache.query.describing.distributions",
    "similar": "lazycache.query.finding.nearest",
    "similarity": "lazycache.query.comparing.representations",
    "top_k": "lazycache.query.finding.top",
}


sys.modules[__name__].__class__ = LazyPackage
