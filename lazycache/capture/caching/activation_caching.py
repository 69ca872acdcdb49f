"""tdhook's capture API: a regular expression over module names fills a mapping as the model runs.

For a few batches that are looked at right away. What shall outlive the process, or is larger than
memory, goes to a dataset: `cache=url` stores every forward pass; `lc.capture` does, by site names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import nn

from lazycache.capture.caching.directions import Direction, check_callback, check_directions
from lazycache.capture.caching.stores import Store, as_store
from lazycache.capture.sites.modules import callable_paths
from lazycache.capture.sites.names import HookPoint
from lazycache.capture.values.hooks import check_hookable
from lazycache.errors import CaptureError, SiteNotFoundError, nearest

Callback = Callable[..., Any]
"""Called with the direction's arguments, `key` and `direction`, all by keyword."""

PREFIX = "module."
"""What names begin with that are not relative to the caller's model."""


class OpenDataset(Protocol):
    """Begins to store what is cached in a dataset; given by the front door."""

    def __call__(
        self, model: nn.Module, url: str, points: Mapping[str, HookPoint]
    ) -> AbstractContextManager[DatasetRun]:
        """Return a context in which every forward pass is stored."""
        ...


class DatasetRun(Protocol):
    """One run into a dataset."""

    def take(self, name: str, values: torch.Tensor) -> None:
        """Take a site of the forward pass that runs."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Return a context in which forward passes are not stored."""
        ...

    def result(self) -> Any:
        """Return the dataset, opened."""
        ...


class ActivationCaching:
    """Caches what passes the modules whose name matches, while a model runs.

    Keys are module names (dots and all), or `(direction, name)` with several directions. A key
    holds the value of the newest forward pass. A module that is called several times in one forward
    pass of the model has its last value under its name and each under `name@0`, `name@1`, ...
    Values are detached copies, on the device where they were: what the model does next changes
    nothing. In a dataset every forward pass adds its rows instead, and nothing is overwritten.

    Args:
        key_pattern: Regular expression, matched from the start of a name but not to its end, as
            `re.match` does: `linear1` also takes `linear10`. Modules that only hold others
            (`ModuleList`) are never called and never match. May be set again between contexts.
        relative: Names relative to the model; False prefixes `module.`, before matching.
        cache: What is filled: any mutable mapping, a TensorDict (nested keys are nested in it, its
            device and batch size hold, a locked one is written in place), or the folder or URL of a
            dataset. None: something new.
        callback: Called by keyword with what the direction hands over (`module`, `args`, `output`,
            ...), `key` and `direction`; what it returns is cached. None caches the value itself, of
            a tuple or mapping the first tensor.
        directions: Of `fwd bwd fwd_pre bwd_pre fwd_kwargs fwd_pre_kwargs`; None is `fwd`. `bwd`
            caches the gradient of the output, and hands `grad_input` to callbacks too.
        use_nested_keys: Keys `(direction, name)` with one direction, too.
        clear_cache: On entry drop what earlier contexts of this object cached. What somebody else
            put into the mapping stays.

    Raises:
        CaptureError: a bad pattern, direction or callback, at construction.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> with ActivationCaching("0").prepare(model) as hooked:
        ...     _ = hooked(torch.ones(4, 2))
        >>> hooked.cache["0"].shape
        torch.Size([4, 3])
    """

    _open_dataset: OpenDataset | None = None

    def __init__(
        self,
        key_pattern: str,
        relative: bool = True,
        cache: MutableMapping[Any, Any] | str | Any | None = None,
        callback: Callback | None = None,
        directions: Sequence[str] | None = None,
        use_nested_keys: bool = False,
        clear_cache: bool = True,
    ) -> None:
        self.key_pattern = key_pattern
        self.relative = relative
        self.directions = check_directions(directions)
        check_callback(callback, self.directions)
        self.callback = callback
        self.use_nested_keys = use_nested_keys or len(self.directions) > 1
        self.clear_cache = clear_cache
        self.store: Store = as_store(
            self._new_cache() if cache is None else cache, open_dataset=self._open_dataset
        )

    def _new_cache(self) -> MutableMapping[Any, Any]:
        """Return what is filled if the caller gives nothing."""
        return {}

    @property
    def key_pattern(self) -> str:
        """The regular expression."""
        return self._pattern.pattern

    @key_pattern.setter
    def key_pattern(self, pattern: str) -> None:
        if not isinstance(pattern, str):
            raise CaptureError(f"key_pattern={pattern!r:.60}: a regular expression is a str.")
        try:
            self._pattern = re.compile(pattern)
        except re.error as exc:
            raise CaptureError(f"{pattern!r} is not a valid regular expression: {exc}.") from exc

    @property
    def cache(self) -> Any:
        """What is filled; readable at any time, of a dataset after a context."""
        return self.store.cache

    def prepare(self, model: nn.Module) -> CachingContext:
        """Return a context in which calls of a model are cached. Registers nothing yet.

        For an example see `ActivationCaching`.

        Raises:
            CaptureError: it is no module.
            SiteNotFoundError: the pattern matches no module that can be called; names the nearest.
        """
        if not isinstance(model, nn.Module):
            raise CaptureError(f"A {type(model).__name__} is no torch module.")
        self.matches(model)
        return CachingContext(self, model)

    def matches(self, model: nn.Module) -> dict[str, str]:
        """Return the names that match, with the module's path of each.

        Raises:
            SiteNotFoundError: none does; names the nearest.

        Example:
            >>> from lazycache import ActivationCaching
            >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
            >>> ActivationCaching("0|1").matches(model)
            {'0': '0', '1': '1'}
        """
        prefix = "" if self.relative else PREFIX
        paths = {prefix + path: path for path in callable_paths(model)}
        found = {name: path for name, path in paths.items() if self._pattern.match(name)}
        if found:
            return found
        raise SiteNotFoundError(
            f"{self.key_pattern!r} matches the name of no module of {type(model).__name__} that "
            f"is called. {nearest(self.key_pattern, paths)}"
        )


class CachingContext:
    """`ActivationCaching` on one model: hooks while it is entered, the cache at any time."""

    def __init__(self, caching: ActivationCaching, model: nn.Module) -> None:
        self._caching = caching
        self._model = model
        self._hooks = ExitStack()
        self._active = False
        self._muted = 0
        self._calls: Counter[Any] = Counter()

    @property
    def cache(self) -> Any:
        """What is filled: the mapping; of a dataset, the dataset opened, after the context."""
        return self._caching.cache

    @property
    def is_active(self) -> bool:
        """Whether the hooks are on the model."""
        return self._active

    def __enter__(self) -> CachedModule:
        """Clear what this object cached before, and put the hooks on the model.

        Raises:
            CaptureError: it is entered already, or the model is compiled.
        """
        if self._active:
            raise CaptureError("This context is entered already: leave it first.")
        caching = self._caching
        found = caching.matches(self._model)  # the pattern may have changed
        check_hookable(self._model, [HookPoint(path, "out") for path in found.values()])
        with ExitStack() as hooks:
            if caching.clear_cache:
                caching.store.clear()
            hooks.callback(self._close)
            hooks.enter_context(caching.store.running(self._model, self._points(found)))
            begin = self._model.register_forward_pre_hook(self._begin, prepend=True)
            hooks.callback(begin.remove)
            for name, path in found.items():
                for direction in caching.directions:
                    hooks.callback(self._register(name, path, direction))
            self._active = True
            self._hooks = hooks.pop_all()
        return CachedModule(self._model, self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the hooks off, whatever happened. A backward pass after it fills nothing."""
        self._hooks.__exit__(kind, error, trace)

    def _close(self) -> None:
        self._active = False

    def clear(self) -> None:
        """Drop what was cached."""
        self._caching.store.clear()

    @contextmanager
    def disable_hooks(self) -> Iterator[Self]:
        """Cache nothing for the length of a block; may be nested."""
        self._muted += 1
        try:
            with self._caching.store.paused():
                yield self
        finally:
            self._muted -= 1

    disable = disable_hooks

    def _points(self, found: Mapping[str, str]) -> dict[str, HookPoint]:
        """Name what each hook hands over as a site of a dataset."""
        sides = [(direction, direction.side) for direction in self._caching.directions]
        points = [HookPoint(path, side) for path in found.values() for _, side in sides]
        return {str(point): point for point in points}

    def _register(self, name: str, path: str, direction: Direction) -> Callable[[], None]:
        key: Any = (direction.name, name) if self._caching.use_nested_keys else name
        site = str(HookPoint(path, direction.side))

        def hook(passed: Mapping[str, Any]) -> None:
            if self._active and not self._muted:
                self._caching.store.put(
                    key, self._value(passed, key, direction), site=site, call=self._calls[key]
                )
                self._calls[key] += 1

        return direction.register(self._model.get_submodule(path), hook).remove

    def _value(self, passed: Mapping[str, Any], key: Any, direction: Direction) -> Any:
        callback = self._caching.callback
        if callback is None:
            return direction.value(passed, key=key).detach().clone()
        value = callback(**passed, key=key, direction=direction.name)
        return self._caching.store.checked(key, value)

    def _begin(self, _: nn.Module, _args: object) -> None:
        self._calls.clear()


class CachedModule:
    """The model inside a context: call it as the model. Outside the context it refuses."""

    def __init__(self, model: nn.Module, context: CachingContext) -> None:
        self.module = model
        """The model itself; its own calls are cached too, inside the context."""
        self.hooking_context = context
        """The context that made this."""

    @property
    def cache(self) -> Any:
        """What is filled."""
        return self.hooking_context.cache

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model.

        Raises:
            CaptureError: the context was left.
        """
        if not self.hooking_context.is_active:
            raise CaptureError("The context was left: nothing would be cached. Enter it again.")
        return self.module(*args, **kwargs)

    def disable_hooks(self) -> AbstractContextManager[CachingContext]:
        """Cache nothing for the length of a block."""
        return self.hooking_context.disable_hooks()

    disable = disable_hooks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)
