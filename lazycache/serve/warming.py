"""What the first page would wait for, done while its reader opens the link."""

from __future__ import annotations

import threading
from contextlib import suppress

from lazycache.errors import LazycacheError
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.serve.example_views import listed, plain


def warming(cache: ActivationCache) -> threading.Thread:
    """Begin to warm a dataset up; return the thread that does it.

    It ends with the process, wherever it is.
    """
    thread = threading.Thread(target=warm, args=(cache,), name="warming", daemon=True)
    thread.start()
    return thread


def warm(cache: ActivationCache) -> None:
    """Ask for the first examples and the tokens of one: DuckDB, Arrow and the index are there then.

    Cost: the index of the dataset, if it is not there yet; no shard. What fails is said by the page
    that needs it.

    Example:
        >>> from lazycache.samples import small_cache
        >>> cache = small_cache()
        >>> warm(cache)
        >>> cache.io.bytes
        0
    """
    with suppress(LazycacheError):
        lines = listed(cache.stored, 0).lines
        if lines:
            plain(cache.stored, lines[0][0])
