"""`lc.ActivationCaching`: the regex API of `capture.activation_caching`, with datasets to fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from lazycache.capture.caching import activation_caching
from lazycache.capture.sites.names import HookPoint
from lazycache.catalog.target import find_target
from lazycache.mapping.activation_cache import ActivationCache
from lazycache.opening import open as open_dataset
from lazycache.options import settings_of
from lazycache.session import Capture
from lazycache.storage.open_store import open_store

RUN = "caching-{}"
"""Name of the run of a context, counted from 1 in a dataset."""


class ActivationCaching(activation_caching.ActivationCaching):
    """Caches what passes the modules whose name matches, while a model runs.

    As `lazycache.capture.caching.activation_caching` says it, and with a folder or URL as `cache=`:
    every forward pass is added to that dataset as `lc.capture` does it, a row per token or example.
    Sites are named `PATH:out` (`fwd`), `PATH:in` (`fwd_pre`) and `PATH:grad_out` (`bwd`); each
    context is a run, `caching-1`, `caching-2`, ...; `.cache` is the dataset, opened, when a context
    was left. A callback then gives a tensor with a row per token or example.

    With `cache=None` it fills an `ActivationCache` in memory, whose `cat` gathers batches:
    `total.cat(hooked.cache)`. Keys of several directions are pairs, `(direction, name)`, which are
    no keys of an `ActivationCache`: then it fills a dict.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with ActivationCaching("0", cache=tempfile.mkdtemp()).prepare(model) as hooked:
        ...     _ = hooked(torch.ones(4, 2)), hooked(torch.ones(1, 2))
        >>> hooked.cache["0:out"].shape
        torch.Size([5, 3])
    """

    def _new_cache(self) -> MutableMapping[Any, Any]:
        return {} if self.use_nested_keys else ActivationCache()

    def _open_dataset(
        self, model: nn.Module, url: str, points: Mapping[str, HookPoint]
    ) -> AbstractContextManager[Run]:
        return _running(model, url, points)


class Run:
    """One run into a dataset."""

    def __init__(self, url: str, capture: Capture) -> None:
        self._url = url
        self._capture = capture

    def take(self, name: str, values: torch.Tensor) -> None:
        """Take a site of the forward pass that runs."""
        self._capture.take(name, values)

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which forward passes are not stored."""
        return self._capture.paused()

    def result(self) -> ActivationCache:
        """Open the dataset."""
        return open_dataset(self._url)


@contextmanager
def _running(model: nn.Module, url: str, points: Mapping[str, HookPoint]) -> Iterator[Run]:
    capture = Capture(
        model,
        lambda create: open_store(url, create=create, storage_options=None),
        list(points),
        name=_next_run(url),
        resume=True,
        overwrite=False,
        tokenizer=None,
        positions="all",
        dtype=None,
        columns=None,
        settings=settings_of({}),
        hooked=False,
    )
    with capture:
        yield Run(url, capture)


def _next_run(url: str) -> str:
    """Return a name that no run of the dataset has."""
    store = open_store(url, create=False, storage_options=None)
    snapshot = find_target(store, resume=True, overwrite=False).snapshot
    taken = () if snapshot is None else snapshot.runs
    return next(name for n in range(1, len(taken) + 2) if (name := RUN.format(n)) not in taken)
