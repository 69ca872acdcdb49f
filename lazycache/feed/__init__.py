"""The training feed: rows of stored sites in batches, shuffled by an index, aligned with columns.

`x.loader(...)` and `cache.loader(...)` begin in `loading`. In the order of the data: `order` says
which rows come when, `source` reads them, `windows` makes ready what is read once a window,
`batches` gathers and cuts, `finishing` moves and converts, `loader` hands out.
"""

import sys
from typing import TYPE_CHECKING

from lazycache.lazy_names import LazyPackage

if TYPE_CHECKING:
    from lazycache.feed.loader import Loader
    from lazycache.feed.mixing import mix
    from lazycache.feed.norms import Norm

__all__ = ["Loader", "Norm", "mix"]

_HOMES = {
    "Loader": "lazycache.feed.loader",
    "Norm": "lazycache.feed.norms",
    "mix": "lazycache.feed.mixing",
}

sys.modules[__name__].__class__ = LazyPackage
