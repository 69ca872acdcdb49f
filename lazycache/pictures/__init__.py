"""Pictures of activations, for notebooks, papers and reports.

Each function takes a cache and gives a picture that a notebook shows and that `.save(path)` writes:
`Picture` (a matplotlib figure: PNG, SVG, PDF; extra `view`) or `Page` (HTML without scripts, which
needs nothing).
"""

import sys
from typing import TYPE_CHECKING

from lazycache.lazy_names import LazyPackage

if TYPE_CHECKING:
    from lazycache.pictures.attention_maps import attention, heads
    from lazycache.pictures.attributions import attribution
    from lazycache.pictures.highlighted import highlights
    from lazycache.pictures.histograms import histogram
    from lazycache.pictures.page import Page
    from lazycache.pictures.picture import Picture
    from lazycache.pictures.representations import similarity
    from lazycache.pictures.stream_norms import norms
    from lazycache.pictures.unit_cards import unit_card

__all__ = [
    "Page",
    "Picture",
    "attention",
    "attribution",
    "heads",
    "highlights",
    "histogram",
    "norms",
    "similarity",
    "unit_card",
]

_HOMES = {
    "Page": "lazycache.pictures.page",
    "Picture": "lazycache.pictures.picture",
    "attention": "lazycache.pictures.attention_maps",
    "attribution": "lazycache.pictures.attributions",
    "heads": "lazycache.pictures.attention_maps",
    "highlights": "lazycache.pictures.highlighted",
    "histogram": "lazycache.pictures.histograms",
    "norms": "lazycache.pictures.stream_norms",
    "similarity": "lazycache.pictures.representations",
    "unit_card": "lazycache.pictures.unit_cards",
}


sys.modules[__name__].__class__ = LazyPackage
