"""Where `ActivationCaching` puts values: a mapping, a TensorDict, or a dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from lazycache.capture.sites.names import HookPoint
from lazycache.errors import CaptureError


class Store(Protocol):
    """What the hooks fill."""

    @property
    def cache(self) -> Any:
        """What the user reads."""
        ...

    def running(
        self, model: nn.Module, points: Mapping[str, HookPoint]
    ) -> AbstractContextManager[Any]:
        """Return the context in which values may come."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which forward passes are not stored."""
        ...

    def checked(self, key: Any, value: Any) -> Any:
        """Return what a callback gave, if it can be put here."""
        ...

    def put(self, key: Any, value: Any, *, site: str, call: int) -> None:
        """Keep a value: the `call`-th under this key in this forward pass."""
        ...

    def clear(self) -> None:
        """Drop what was put here."""
        ...


def as_store(cache: Any, *, open_dataset: Any) -> Store:
    """Return the store for what a user gave as `cache=`.

    Raises:
        CaptureError: it is neither a mutable mapping nor an address.

    Example:
        >>> as_store(None, open_dataset=None).cache
        {}
    """
    if cache is None:
        return MappingStore({})
    if isinstance(cache, str | os.PathLike):
        if open_dataset is None:
            raise CaptureError("A dataset is filled by lc.ActivationCaching; this one cannot.")
        return DatasetStore(os.fspath(cache), open_dataset)
    if isinstance(cache, MutableMapping) or hasattr(cache, "batch_size"):
        return MappingStore(cache)
    raise CaptureError(
        f"cache={type(cache).__name__}: give a mutable mapping, a TensorDict, the folder or URL of "
        "a dataset, or None for a new dict."
    )


class MappingStore:
    """A mutable mapping; knows TensorDicts by their behaviour, without importing them."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._own: dict[Any, None] = {}

    @property
    def cache(self) -> Any:
        """The mapping itself."""
        return self._cache

    def running(
        self, model: nn.Module, points: Mapping[str, HookPoint]
    ) -> AbstractContextManager[Any]:
        """Return a context that does nothing: a mapping is always open."""
        del model, points
        return nullcontext()

    def paused(self) -> AbstractContextManager[None]:
        """Nothing runs on its own."""
        return nullcontext()

    def checked(self, key: Any, value: Any) -> Any:
        """Return a detached copy: the model may write to what it gave."""
        if isinstance(value, torch.Tensor) or _is_tensordict(value):
            return value.detach().clone()
        raise CaptureError(
            f"{key!r}: the callback returned {type(value).__name__} values, which are not "
            "supported for caching: return a tensor or a TensorDict."
        )

    def put(self, key: Any, value: Any, *, site: str, call: int) -> None:
        """Set the key, and the key of its call if it is called again."""
        del site
        if call:
            if call == 1:
                self._set(_of_call(key, 0), self._cache[key])
            self._set(_of_call(key, call), value)
        self._set(key, value)

    def clear(self) -> None:
        """Remove the keys that were set here; the owner's other keys stay."""
        for key in self._own:
            if key in _keys(self._cache) and not getattr(self._cache, "is_locked", False):
                del self._cache[key]
        self._own.clear()

    def _set(self, key: Any, value: Any) -> None:
        if getattr(self._cache, "is_locked", False):
            self._write_in_place(key, value)
            return
        try:
            self._cache[key] = value
        except (RuntimeError, TypeError, ValueError) as exc:
            raise CaptureError(f"{key!r} cannot be put into the cache: {exc}") from exc
        self._own[key] = None

    def _write_in_place(self, key: Any, value: torch.Tensor) -> None:
        """Fill a locked (memory-mapped) TensorDict with what fits exactly: never broadcast."""
        there = self._cache.get(key, None)
        if there is None:
            raise CaptureError(f"The TensorDict is locked and has no preallocated entry {key!r}.")
        if there.shape != value.shape or there.dtype != value.dtype:
            raise CaptureError(
                f"{key!r} is {list(value.shape)} of {value.dtype}, but the locked TensorDict has "
                f"{list(there.shape)} of {there.dtype}: it is written in place, never converted."
            )
        with torch.no_grad():
            there.copy_(value)


class DatasetStore:
    """A dataset on disk or in a bucket: every forward pass is added to it."""

    def __init__(self, url: str, open_dataset: Any) -> None:
        self._url = url
        self._open = open_dataset
        self._run: Any = None
        self._result: Any = None

    @property
    def cache(self) -> Any:
        """The dataset, opened after the last context.

        Raises:
            CaptureError: no context was left yet.
        """
        if self._result is None:
            raise CaptureError(f"{self._url} can be read when the context was left.")
        return self._result

    @contextmanager
    def running(self, model: nn.Module, points: Mapping[str, HookPoint]) -> Iterator[None]:
        """Store forward passes; commit at the end."""
        with self._open(model, self._url, points) as run:
            self._run = run
            try:
                yield
            finally:
                self._run = None
        self._result = run.result()

    def paused(self) -> AbstractContextManager[None]:
        """Let forward passes go by."""
        paused: AbstractContextManager[None] = (
            nullcontext() if self._run is None else self._run.paused()
        )
        return paused

    def checked(self, key: Any, value: Any) -> Any:
        """Return a tensor; the recorder copies it."""
        if isinstance(value, torch.Tensor):
            return value
        raise CaptureError(
            f"{key!r}: the callback returned {type(value).__name__} values, which are not "
            "supported in a dataset: return a tensor with a row per token or example."
        )

    def put(self, key: Any, value: Any, *, site: str, call: int) -> None:
        """Hand a site of the forward pass to the recorder."""
        del key, call
        self._run.take(site, value)

    def clear(self) -> None:
        """Nothing committed is ever lost: contexts add to the dataset."""


def _of_call(key: Any, call: int) -> Any:
    if isinstance(key, tuple):
        return (*key[:-1], f"{key[-1]}@{call}")
    return f"{key}@{call}"


def _keys(cache: Any) -> Any:
    if _is_tensordict(cache):
        return cache.keys(include_nested=True)
    return cache


def _is_tensordict(value: object) -> bool:
    return hasattr(value, "batch_size") and hasattr(value, "to_tensordict")
