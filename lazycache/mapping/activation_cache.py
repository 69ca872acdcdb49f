"""`ActivationCache`: activations by name, in memory, over a dataset, or over several."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Self

import torch

from lazycache.cache.dataset.stored_sites import StoredSites
from lazycache.cache.reading.source import targets
from lazycache.cache.values.described import described
from lazycache.errors import SiteNotFoundError, UnsupportedDtypeError, nearest
from lazycache.mapping.aggregating import Aggregating
from lazycache.mapping.annotating import Annotating
from lazycache.mapping.attending import Attending
from lazycache.mapping.by_name import ByName
from lazycache.mapping.cache_state import CacheState
from lazycache.mapping.comparing import Comparing
from lazycache.mapping.describing import Describing
from lazycache.mapping.equality import same_entry
from lazycache.mapping.estimating import Estimating
from lazycache.mapping.feeding import Feeding
from lazycache.mapping.finding import Finding
from lazycache.mapping.memory_sizes import MemorySizes
from lazycache.mapping.overview import overview
from lazycache.mapping.overview_faces import as_html, as_text
from lazycache.mapping.persistence import Persistence
from lazycache.mapping.relating import Relating
from lazycache.mapping.restricting import Restricting
from lazycache.mapping.segments import Segments
from lazycache.mapping.stored_parts import stored_parts
from lazycache.plain_text import in_one_line


class ActivationCache(
    ByName,
    Aggregating,
    Annotating,
    MemorySizes,
    Persistence,
    Finding,
    Feeding,
    Comparing,
    Describing,
    Attending,
    Relating,
    Estimating,
    Restricting,
    MutableMapping[str, Any],
):
    """Activations by name: `cache["resid_out_0"][3, :10].load()`.

    A mutable mapping of names to any values. `ActivationCache()` keeps them in memory; `lc.open`
    gives one over a dataset, whose keys are its sites in natural order (`resid_out_2` before
    `resid_out_10`), then values that were saved beside them, then what is set here. Values of sites
    are lazy: `LazyTensor`, of attention patterns `RaggedTensor`; nothing is read before it is used,
    and `io` counts what is.

    Keys are strings. To read one, other names do too: of a head, `cache["z_L1H3"]`, and those of
    other libraries, `cache["resid_post", 1]`; see `docs/reference/activation-cache.md`.

    What is set or deleted changes this cache, never the dataset: a value under the name of a site
    hides the site, `del` hides it without. A dataset is shown as it was when it was opened.

    May be shared between threads that read. Close it, or use it as a context manager, to drop the
    file maps early; tensors that were loaded stay valid.

    Args:
        entries: Values that are in memory.
        stored: Opened datasets. Several are joined as `cat` joins them, site by site; they then
            need the same sites.

    Raises:
        TypeError: a key is no string.
        ValueError: several datasets have different sites.

    Example:
        >>> from lazycache.samples import small_cache
        >>> cache = small_cache()
        >>> cache["label"] = ["a", "b", "c"]
        >>> cache
        ActivationCache(`resid_out_0`, `label`)
        >>> cache["resid_out_0"].shape
        torch.Size([3, 3, 2])
        >>> cache.io.bytes
        0
    """

    def __init__(
        self,
        entries: Mapping[str, Any] | None = None,
        *,
        stored: StoredSites | Sequence[StoredSites] = (),
    ) -> None:
        super().__init__()
        datasets = (stored,) if isinstance(stored, StoredSites) else tuple(stored)
        if len(datasets) > 1:
            self._join([type(self)(stored=one) for one in datasets])
        elif datasets:
            self.datasets = datasets
            parts = stored_parts(datasets[0])
            self.segments = {name: Segments([part]) for name, part in parts.items()}
        if entries is not None:
            self.update(entries)

    def __setitem__(self, key: str, value: Any) -> None:
        self.segments[_checked(key)] = Segments.of(value)

    def __delitem__(self, key: str) -> None:
        if self.segments_of(key) is None:
            # another name of an entry, or a head of one, is nothing that can go
            instead = (
                "It is another name or a part of what is there: list(cache) has the keys."
                if key in self
                else nearest(str(key), self)
            )
            raise SiteNotFoundError(f"there is no key {key!r} to delete. {instead}")
        del self.segments[key]

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the last key and its value.

        Raises:
            SiteNotFoundError: it is empty.
        """
        if not self.segments:
            raise SiteNotFoundError("popitem(): the cache is empty.")
        key = next(reversed(self.segments))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove all keys. Nothing is deleted from a dataset, which stays open."""
        self.segments.clear()

    def is_empty(self) -> bool:
        """Whether there are no keys."""
        return not self.segments

    def update(self, other: Any, /) -> None:  # type: ignore[override]  # pairs are refused, as ever
        """Set the entries of a dict or a cache, without joining them with what is there.

        Raises:
            TypeError: it is neither, or has a key that is no string; nothing was set then.

        Example:
            >>> cache = ActivationCache({"a": 1})
            >>> cache.update({"a": 2, "b": 3})
            >>> dict(cache)
            {'a': 2, 'b': 3}
        """
        if isinstance(other, CacheState):
            self.segments.update(other.forked())
            self.share(other)
        elif isinstance(other, Mapping):
            self.segments.update({_checked(k): Segments.of(v) for k, v in other.items()})
        else:
            raise TypeError("Can only update with dict or ActivationCache objects.")

    def copy(self) -> Self:
        """Return a cache of the same values, with the same strategies, to be changed on its own."""
        made = type(self)()
        made.segments, made.datasets, made.strategies = (
            self.forked(),
            self.datasets,
            self.strategies.copy(),
        )
        return made

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = self.copy()
        made.segments = {key: one.deep_copy(memo) for key, one in self.segments.items()}
        return made

    def __add__(self, other: Any) -> Self:
        """Return a new cache of both; where keys are the same, with the value of the right one."""
        if not isinstance(other, (CacheState, Mapping)):
            raise TypeError("Can only add ActivationCache or dict objects.")
        made = self.copy()
        made.update(other)
        if isinstance(other, CacheState):
            made.strategies = self.strategies.merged(other.strategies)
        return made

    def __radd__(self, other: Any) -> Self:
        # sum() begins with 0
        if isinstance(other, int) and other == 0:
            return self.copy()
        if not isinstance(other, Mapping):
            raise TypeError("Can only add ActivationCache or dict objects.")
        made = type(self)(other)
        made.update(self)
        made.strategies = self.strategies.copy()
        return made

    def __or__(self, other: Any) -> Self:
        return self + other if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> Self:
        return other + self if isinstance(other, Mapping) else NotImplemented

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        """Whether another cache or mapping has the same keys and, for each, an equal value.

        Order of keys and strategies do not count; NaN is equal to NaN.

        Cost: keys, shapes and dtypes are compared first. Of the same sites of the same dataset
        nothing is read; of others blocks, up to the first that differs.
        """
        if not isinstance(other, Mapping):
            return NotImplemented
        if set(self) != set(other):
            return False
        theirs = other if isinstance(other, ActivationCache) else type(self)(other)
        return all(same_entry(one, theirs.segments[key]) for key, one in self.segments.items())

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def to(
        self,
        *args: torch.dtype | torch.device | str,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Move all tensors, in place, also those in lists, tuples, dicts and values with info.

        A dtype converts floating-point tensors only: ids and masks stay exact. Of sites it says
        how they are loaded from now on.

        Cost: nothing is read. Old and new tensors are in memory together until all are there; an
        error leaves the cache as it was.

        Raises:
            SelectionError: an argument is neither a dtype nor a device.
            UnsupportedDtypeError: a dtype that is not of floating point.

        Example:
            >>> cache = ActivationCache({"x": [torch.ones(2)], "ids": torch.tensor([3])})
            >>> cache.to(torch.bfloat16)
            >>> cache["x"][0].dtype, cache["ids"].dtype
            (torch.bfloat16, torch.int64)
        """
        to_dtype, to_device = targets(args, dtype, device)
        if to_dtype is not None and not to_dtype.is_floating_point:
            raise UnsupportedDtypeError(
                f"cache.to({to_dtype}): only floating-point dtypes. Of one value: "
                f"cache[key] = cache[key].to({to_dtype})."
            )
        made = {key: one.converted(to_dtype, to_device) for key, one in self.segments.items()}
        self.segments.update(made)

    def cpu(self) -> None:
        """Move all tensors to main memory, in place."""
        self.to("cpu")

    def cuda(self) -> None:
        """Move all tensors to the GPU, in place."""
        self.to("cuda")

    def __repr__(self) -> str:
        return f"ActivationCache({', '.join(f'`{in_one_line(key)}`' for key in self)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show what there is in IPython: the datasets, keys, norms by layer; see `overview`."""
        printer.text(repr(self) if cycle else as_text(overview(self)))

    def _repr_html_(self) -> str:
        """Show the same in a notebook. All text is escaped."""
        return as_html(overview(self))

    def __str__(self) -> str:
        """Say of each key its shape and dtype; never numbers."""
        lines = [f"  {in_one_line(key)}: {_about(one)}" for key, one in self.segments.items()]
        return "\n".join(["ActivationCache(", *lines, ")"]) if lines else "ActivationCache()"


def _checked(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys are strings, not {key!r:.80} ({type(key).__name__}).")
    return key


def _about(segments: Segments) -> str:
    """Describe what a key has, without copying what was not joined yet."""
    return segments.pending_shape() or described(segments.value())
